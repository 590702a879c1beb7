//! The function `cancel` in AWS Lambda.

fn main() -> std::process::ExitCode {
    onsale_http::start("cancel", |env| async move {
        let state = onsale_cancel::State::from_env(&env).await?;
        Ok(onsale_cancel::routes().with_state(state).into())
    })
}
