//! x
fn main() {
    println!("{}", serde_json::to_string(&sidecarset::api::crd::crd()).unwrap());
}
