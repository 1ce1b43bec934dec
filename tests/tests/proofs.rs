//! The shorter proofs, smaller; `cargo xtask proof` carries them out in full.

use lb_tests::proof::accounting;
use lb_tests::require_data_path;

#[test]
fn the_books_agree_with_the_table_under_load_and_after() {
    require_data_path!("the_books_agree_with_the_table_under_load_and_after");
    let report = accounting::measure(accounting::Size { flows: 30_000, looks: 5 }).unwrap();
    assert_eq!(report.failure(), None, "{}", report.text());
}
