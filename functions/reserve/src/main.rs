//! The function `reserve` in AWS Lambda.

fn main() -> std::process::ExitCode {
    onsale_http::start("reserve", |env| async move {
        let state = onsale_reserve::State::from_env(&env).await?;
        Ok(onsale_reserve::routes().with_state(state).into())
    })
}
