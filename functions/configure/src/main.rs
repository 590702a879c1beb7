//! The function `configure` in AWS Lambda.

fn main() -> std::process::ExitCode {
    onsale_http::start("configure", |env| async move {
        let state = onsale_configure::State::from_env(&env).await?;
        Ok(onsale_configure::routes().with_state(state).into())
    })
}
