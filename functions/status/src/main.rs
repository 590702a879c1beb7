//! The function `status` in AWS Lambda.

fn main() -> std::process::ExitCode {
    onsale_http::start("status", |env| async move {
        let state = onsale_status::State::from_env(&env).await?;
        Ok(onsale_status::routes().with_state(state).into())
    })
}
