use serde_json::{Value, json};

use super::*;

fn errors(strategy: Value) -> Vec<String> {
    let mut problems = Problems::default();
    check(&serde_json::from_value(strategy).unwrap(), &mut problems);
    problems.errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_number_in_quotes_is_told_apart_from_a_percentage() {
    for (strategy, field) in [
        (json!({"maxUnavailable": "3"}), "maxUnavailable"),
        (json!({"maxUnavailablePerWorkload": "3"}), "maxUnavailablePerWorkload"),
        (json!({"partition": "3"}), "partition"),
        (json!({"failurePolicy": {"maxFailed": "3"}}), "failurePolicy.maxFailed"),
        (json!({"steps": [{"replicas": "10%"}, {"replicas": "3"}]}), "steps[1].replicas"),
    ] {
        let message = r#"is a string: write 3 without quotes, or a percentage such as "30%""#;
        assert_eq!(errors(strategy), [format!("spec.updateStrategy.{field}: {message}")]);
    }
    let fine = json!({"maxUnavailable": 3, "maxUnavailablePerWorkload": "3%", "partition": "30%"});
    assert_eq!(errors(fine), Vec::<String>::new());
}
