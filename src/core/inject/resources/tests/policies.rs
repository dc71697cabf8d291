use super::*;

fn policy(mode: &str, regex: Option<&str>, limits: Value, requests: Value) -> Policy {
    let mut policy = json!({"targetContainersMode": mode, "resourcesExpr": {"limits": limits, "requests": requests}});
    if let Some(regex) = regex {
        policy["targetContainersNameRegex"] = json!(regex);
    }
    Policy::new(&serde_json::from_value(policy).unwrap()).unwrap()
}

fn evaluate(policy: &Policy, containers: &[Value]) -> Evaluated {
    policy.evaluate(&containers.iter().collect::<Vec<_>>()).unwrap()
}

fn half() -> Value {
    json!({"cpu": "cpu * 50%", "memory": "memory * 50%"})
}

#[test]
fn targets_are_added_up_or_the_largest_is_taken() {
    let app = [container("a", "1/1Gi", "500m/-"), container("b", "3/512Mi", "100m/1Mi")];
    for (mode, limits, requests) in
        [("sum", ("2", "768Mi"), ("300m", "524800Ki")), ("max", ("1500m", "512Mi"), ("250m", "512Mi"))]
    {
        let result = evaluate(&policy(mode, None, half(), half()), &app);
        let expected = json!({
            "limits": {"cpu": limits.0, "memory": limits.1}, "requests": {"cpu": requests.0, "memory": requests.1},
        });
        assert_eq!(result, Evaluated { resources: expected, warnings: vec![] }, "{mode}");
    }
}

#[test]
fn the_pattern_finds_a_part_of_the_name() {
    let app = [container("web-app", "1/-", "-/-"), container("proxy", "5/-", "-/-")];
    for (pattern, expected) in [("app", "1"), ("^(web-app|proxy)$", "6"), ("p", "6"), ("^p", "5")] {
        let result = evaluate(&policy("sum", Some(pattern), json!({"cpu": "cpu"}), json!({})), &app);
        assert_eq!(result.resources, json!({"limits": {"cpu": expected}}), "{pattern}");
    }
}

#[test]
fn no_target_is_an_error_that_names_what_there_is() {
    let app = container("app", "-/-", "-/-");
    let policy = policy("sum", Some("^web$"), half(), json!({}));
    assert_eq!(
        policy.evaluate(&[&app]).unwrap_err().to_string(),
        r#"no container of the application has a name that "^web$" matches; it has app: change resourcesPolicy.targetContainersNameRegex"#
    );
    assert!(policy.evaluate(&[]).unwrap_err().to_string().contains("it has none"));
}

#[test]
fn one_unlimited_target_sets_no_limit_that_depends_on_it() {
    let expressions = json!({"cpu": "cpu * 50%", "memory": "min(memory / 2, 64Mi)"});
    let policy_of = |limits| policy("sum", None, limits, json!({}));
    for unlimited in [container("b", "-/-", "1/1"), container("b", "0/0", "1/1")] {
        let app = [container("a", "1/1Gi", "-/-"), unlimited];
        assert_eq!(evaluate(&policy_of(expressions.clone()), &app).resources, json!({"limits": {"memory": "64Mi"}}));
        assert_eq!(evaluate(&policy_of(json!({"cpu": "100m"})), &app).resources, json!({"limits": {"cpu": "100m"}}));
        assert_eq!(evaluate(&policy_of(json!({"cpu": "cpu"})), &app).resources, json!({}));
    }
}

#[test]
fn a_missing_request_counts_as_zero_and_a_limit_implies_one() {
    let app = [container("a", "-/-", "-/-"), container("b", "1/-", "-/-")];
    let result = evaluate(&policy("sum", None, json!({}), json!({"cpu": "cpu + 100m", "memory": "memory"})), &app);
    assert_eq!(result.resources, json!({"requests": {"cpu": "1100m", "memory": "0"}}));
    assert!(result.warnings.is_empty(), "{:?}", result.warnings);
}

#[test]
fn corrections_are_reported() {
    let app = [container("app", "1/1Gi", "500m/512Mi")];
    for (limits, requests, expected, says) in [
        (json!({}), json!({"cpu": "cpu - 1"}), json!({"requests": {"cpu": "0"}}), "requests.cpu is -500m"),
        (json!({"cpu": "cpu - 2"}), json!({}), json!({"limits": {"cpu": "0"}}), "kubelet reads as no limit"),
        (json!({"cpu": "cpu - 1"}), json!({}), json!({"limits": {"cpu": "0"}}), "kubelet reads as no limit"),
        (
            json!({"cpu": "cpu * 10%"}),
            json!({"cpu": "cpu"}),
            json!({"limits": {"cpu": "100m"}, "requests": {"cpu": "100m"}}),
            "requests.cpu 500m is lowered to the limit 100m",
        ),
    ] {
        let result = evaluate(&policy("sum", None, limits, requests), &app);
        assert_eq!(result.resources, expected);
        assert!(result.warnings.len() == 1 && result.warnings[0].contains(says), "{:?}", result.warnings);
    }
}

#[test]
fn a_policy_that_validation_refuses_cannot_be_prepared() {
    for policy in [json!({"targetContainersNameRegex": "("}), json!({"resourcesExpr": {"limits": {"cpu": "cpu*cpu"}}})]
    {
        let mut all = json!({"targetContainersMode": "sum", "resourcesExpr": {}});
        json_patch::merge(&mut all, &policy);
        assert!(Policy::new(&serde_json::from_value(all).unwrap()).is_none(), "{policy}");
    }
}
