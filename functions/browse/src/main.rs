//! The function `browse` in AWS Lambda.

fn main() -> std::process::ExitCode {
    onsale_http::start("browse", |env| async move {
        let state = onsale_browse::State::from_env(&env).await?;
        Ok(onsale_browse::routes().with_state(state).into())
    })
}
