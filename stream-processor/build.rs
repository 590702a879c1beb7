//! A new migration alone must rebuild what embeds the migrations.

fn main() {
    println!("cargo::rerun-if-changed=migrations");
}
