//! The API document, generated from the functions' code.

use axum::{Json, Router, routing::get};
use utoipa::{
    OpenApi,
    openapi::{
        InfoBuilder, LicenseBuilder, OpenApiBuilder, SecurityRequirement, Server,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_axum::router::OpenApiRouter;

/// What stands around the operations: title, server, and that a bearer token is needed where nothing else is said.
pub(crate) fn frame() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(tags(
        (name = "sales", description = "What is on sale"),
        (name = "reservations", description = "Holds on units of a sale"),
    ))]
    struct Frame;
    let mut document = OpenApiBuilder::from(Frame::openapi())
        .info(
            InfoBuilder::new()
                .title("Onsale")
                .description(Some(
                    "Sells a limited stock to a crowd that arrives in the same second. JSON in camelCase, times RFC 3339 \
                     in UTC, money in integer minor units. 202 means: the event is in the log.",
                ))
                .version(env!("CARGO_PKG_VERSION"))
                .license(Some(LicenseBuilder::new().name("Apache-2.0").build()))
                .build(),
        )
        .servers(Some([Server::new("http://127.0.0.1:3000")]))
        .security(Some([SecurityRequirement::new("bearer", Vec::<String>::new())]))
        .build();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("`sub` is the user; the scope `admin` opens administration."))
        .build();
    document.components.get_or_insert_default().add_security_scheme("bearer", SecurityScheme::Http(bearer));
    document
}

/// The document by itself, without any client.
pub fn document() -> utoipa::openapi::OpenApi {
    fn operations<S: Clone + Send + Sync + 'static>(routes: OpenApiRouter<S>) -> utoipa::openapi::OpenApi {
        routes.into_openapi()
    }
    let mut document = frame();
    for part in [
        operations(onsale_configure::routes()),
        operations(onsale_browse::routes()),
        operations(onsale_reserve::routes()),
        operations(onsale_status::routes()),
        operations(onsale_cancel::routes()),
    ] {
        document.merge(part);
    }
    document
}

/// Serves it.
pub(crate) fn routes(document: &utoipa::openapi::OpenApi) -> Router {
    let document = document.clone();
    Router::new().route("/openapi.json", get(move || async move { Json(document) }))
}
