use super::*;
use crate::ledger::LedgerError;
use serde_json::json;

#[sqlx::test(migrations = "./migrations")]
async fn a_sale_is_kept_as_it_was_sent(pool: PgPool) {
    let ledger = ledger(pool).await;
    let seats = sale_with("seats", |config| {
        config.as_object_mut().unwrap().remove("capacity");
        config["seats"] = json!([{"section": "A", "rows": 2, "seatsPerRow": 3}]);
        config["concertId"] = json!("tides");
    });
    ledger.insert_sale(&seats).await.unwrap();
    let row = ledger.sale(&seats.id).await.unwrap().unwrap();
    assert_eq!((row.settings, row.epoch, row.return_seq), (seats.clone(), 1, 0));
    let all = ledger.sales().await.unwrap();
    assert_eq!(all.iter().map(|s| s.settings.id.as_str()).collect::<Vec<_>>(), ["demo", "seats"]);
    let unknown = SaleId::parse("saleId", "unknown").unwrap();
    assert_eq!(ledger.sale(&unknown).await.unwrap(), None);
    let known = ledger.known_sales(&[seats.id.clone(), unknown]).await.unwrap();
    assert_eq!(known.into_iter().collect::<Vec<_>>(), [seats.id]);
    assert_eq!(
        effects(&apply(&ledger, &[hold_in("seats", 1, "alice", &[6])]).await),
        [Effect::Recorded],
        "the last of six seats"
    );
}

#[sqlx::test(migrations = "./migrations")]
async fn a_known_sale_may_change_but_not_what_it_sells(pool: PgPool) {
    let ledger = ledger(pool).await;
    apply(&ledger, &[hold(1, "alice", &[1]), cancel(100, 1, "alice")]).await;
    let renamed = sale_with("demo", |config| {
        config["title"] = json!("Sunlight");
        config["perUserLimit"] = json!(2);
    });
    ledger.insert_sale(&renamed).await.unwrap();
    ledger.insert_sale(&renamed).await.unwrap();
    let row = ledger.sale(&renamed.id).await.unwrap().unwrap();
    assert_eq!((&row.settings, row.return_seq), (&renamed, 1), "and its journal goes on");
    let columns = sqlx::query("select title, per_user_limit from sale").fetch_one(ledger.pool()).await.unwrap();
    assert_eq!((columns.get::<&str, _>(0), columns.get::<i32, _>(1)), ("Sunlight", 4), "the highest limit counts");

    for change in [json!({"capacity": 11}), json!({"unitPrice": {"amount": 100, "currency": "USD"}})] {
        let other = sale_with("demo", |config| {
            config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        });
        let error = ledger.insert_sale(&other).await.unwrap_err();
        assert!(matches!(error, LedgerError::StockDiffers(_)) && !error.is_transient(), "{error}");
    }
    assert_eq!(ledger.sale(&renamed.id).await.unwrap().unwrap().settings, renamed);
}
