use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Expression, ExpressionError> {
    Expression::parse(text, Resource::Cpu)
}

fn quantity(text: &str) -> Quantity {
    Quantity::parse(text).unwrap()
}

/// The result for a pod that has this much, as it is written into the sidecar.
fn result(text: &str, resource: Resource, available: &str) -> String {
    let expression = Expression::parse(text, resource).unwrap_or_else(|error| panic!("{text}: {error}"));
    expression.evaluate(Some(quantity(available))).unwrap().canonical(resource)
}

#[test]
fn expressions_compute_what_they_say() {
    for (text, available, expected) in [
        ("cpu", "1", "1"),
        ("CPU*50%", "1", "500m"),
        ("cpu * 0.5 + 100m", "1", "600m"),
        ("1e-1 * cpu", "1", "100m"),
        ("cpu * (1 - 20%)", "1", "800m"),
        ("cpu - cpu * 0.2 - 0.1", "1", "700m"),
        ("2 + 3 * 4", "1", "14"),
        ("12 / 3 / 2", "1", "2"),
        ("10 - 2 - 3", "1", "5"),
        ("-cpu + 2", "500m", "1500m"),
        ("-(-cpu)", "500m", "500m"),
        ("cpu / 3 * 3", "100m", "100m"),
        ("cpu / 3", "100m", "34m"),
        ("cpu / 3", "300000001n", "101m"),
        ("(cpu - 100m) / (2 * 25%)", "600m", "1"),
        ("max(cpu * 10%, 50m)", "100m", "50m"),
        ("Max(cpu, 1, 3, 2)", "1", "3"),
        ("min(cpu, 500m)", "1", "500m"),
        ("min(2, 3) * max(cpu, 10%*cpu)", "1", "2"),
        ("cpu * max(10%, 20%, 5%)", "1", "200m"),
        ("cpu * min(10%, 20%, 5%)", "1", "50m"),
        ("500m", "1", "500m"),
        ("2", "1", "2"),
        ("1E + cpu", "0", "1E"),
        ("cpu - 500m", "100m", "-400m"),
    ] {
        assert_eq!(result(text, Resource::Cpu, available), expected, "{text}");
    }
}

#[test]
fn memory_is_computed_in_whole_bytes() {
    for (text, available, expected) in [
        ("memory / 3", "1Gi", "357913942"),
        ("Memory * 25% + 64Mi", "256Mi", "128Mi"),
        ("min(memory, 1e9)", "2Gi", "1G"),
        ("memory * 1.1", "7Ei", "8877495585472721716"),
    ] {
        assert_eq!(result(text, Resource::Memory, available), expected, "{text}");
    }
}

#[test]
fn what_cannot_be_evaluated_for_every_pod_is_refused_at_its_place() {
    for (text, position, says) in [
        ("", 0, "write an expression such as cpu * 50%"),
        ("   ", 0, "is empty"),
        ("cpu*cpu", 3, "write a number without a unit"),
        ("cpu * 500m", 4, "write a number without a unit"),
        ("100m*2m", 4, "write a number without a unit"),
        ("1 / cpu", 2, "write cpu / 2"),
        ("cpu / 500m", 4, "write cpu / 2"),
        ("cpu / 0", 4, "divides by 0"),
        ("cpu / (1 - 1)", 4, "divides by 0"),
        ("cpu / (0 * 50%)", 4, "divides by 0"),
        ("cpu + 50%", 4, "cpu * 150%"),
        ("cpu - 50%", 4, "cpu * 150%"),
        ("cpu + -50%", 4, "cpu * 150%"),
        ("cpu + 50% / 2", 4, "cpu * 150%"),
        ("max(cpu, 50%)", 0, "cpu * 150%"),
        ("50%", 0, "write cpu * 50%"),
        ("1 + 50%", 0, "write cpu * 50%"),
        ("10m%", 3, "write 50% or 50m"),
        ("memory", 0, "write cpu, max(a, b) or min(a, b)"),
        ("cpu + memory", 6, "write cpu, max(a, b) or min(a, b)"),
        ("10foo", 2, "\"foo\" is no unit"),
        ("2cpu", 1, "\"cpu\" is no unit"),
        ("1KI", 1, "\"KI\" is no unit"),
        ("cpu + 1.2.3", 6, "is no number"),
        (".", 0, "is no number"),
        ("1e99", 0, "is no number"),
        ("cpu *", 5, "ends where it needs a value"),
        ("cpu 2", 4, "write one of + - * /"),
        ("cpu)", 3, "write one of + - * /"),
        ("(cpu", 4, "ends where it needs )"),
        ("max(cpu", 7, "ends where it needs , or )"),
        ("max()", 4, "needs a value"),
        ("max cpu", 4, "( after the name of a function"),
        ("cpu × 2", 4, "write *"),
        ("cpu ÷ 2", 4, "write /"),
        ("+cpu", 0, "write a value"),
        ("cpu * 50 %", 9, "'%' is not expected"),
        ("-1", 0, "is always negative"),
        ("min(100m - 1, 2)", 0, "is always negative"),
        ("cpu / 0.123456789 / 0.123456789 / 0.987654321", 0, "divides too finely"),
        ("cpu * (1e18 * 1e18 * 1e18)", 19, "too large"),
    ] {
        let error = parse(text).expect_err(text);
        let message = if says == "needs a value" { "a value" } else { says };
        assert!(error.position == position && error.message.contains(message), "{text}: {error}");
    }
}

#[test]
fn length_and_depth_are_bounded() {
    let deep = "(".repeat(100_000);
    assert_eq!(parse(&deep).unwrap_err().position, MAX_LENGTH);
    for open in ["(", "-", "max("] {
        let error = parse(&format!("{}cpu", open.repeat(60))).unwrap_err();
        assert!(error.message.contains("nested more than 32 times"), "{error}");
    }
    let long = format!("cpu{}", "+1".repeat(126));
    assert_eq!(result(&long, Resource::Cpu, "1"), "127");
}

#[test]
fn an_unlimited_amount_stays_unlimited_unless_min_limits_it() {
    for (text, expected) in [
        ("cpu * 50%", None),
        ("cpu + 1", None),
        ("1 - cpu", None),
        ("max(cpu, 1)", None),
        ("min(cpu, 2 * cpu)", None),
        ("min(cpu * 50%, 1)", Some("1")),
        ("min(cpu, 3, 2) + 500m", Some("2.5")),
        ("100m", Some("100m")),
    ] {
        assert_eq!(parse(text).unwrap().evaluate(None), expected.map(quantity), "{text}");
    }
}

#[test]
fn amounts_end_at_the_largest_quantity() {
    assert_eq!(result("cpu * 1000", Resource::Cpu, "10E"), Quantity::MAX.canonical(Resource::Cpu));
    assert_eq!(result("cpu * 1000000000 * 1000000000 / 3", Resource::Cpu, "8E"), "3074457345618258602334m");
    assert_eq!(result("1 - cpu * 2", Resource::Cpu, "10E"), "-9223372036854775806");
}

#[test]
fn patterns_are_not_anchored_and_their_errors_fit_on_a_line() {
    assert!(name_pattern("app").unwrap().is_match("my-app-1"));
    assert!(!name_pattern("^app$").unwrap().is_match("my-app-1"));
    let cases = [("", "must not be empty"), ("(a", "unclosed group"), ("(a{999}){999}", "too complex")];
    for (pattern, says) in cases {
        let error = name_pattern(pattern).unwrap_err();
        assert!(error.contains(says) && !error.contains('\n'), "{pattern}: {error}");
    }
}

/// Texts that are nearly always expressions: the grammar, with arguments of any type.
fn texts() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        4 => Just("cpu".to_owned()),
        2 => (0..1_000_000_u32).prop_map(|n| n.to_string()),
        2 => (0..100_u32, 0..1000_u32).prop_map(|(n, f)| format!("{n}.{f}")),
        2 => (0..300_u32).prop_map(|n| format!("{n}%")),
        2 => (0..5000_u32, prop::sample::select(vec!["n", "u", "m", "k", "G", "E", "Ki", "Ei", "e3"]))
            .prop_map(|(n, unit)| format!("{n}{unit}")),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let operator = prop::sample::select(vec!["+", "-", "*", "/", " * ", "- -"]);
        prop_oneof![
            (inner.clone(), operator, inner.clone()).prop_map(|(a, o, b)| format!("({a}{o}{b})")),
            (prop::collection::vec(inner.clone(), 1..4), any::<bool>()).prop_map(|(all, max)| format!(
                "{}({})",
                if max { "max" } else { "min" },
                all.join(", ")
            )),
            inner.prop_map(|a| format!("-{a}")),
        ]
    })
}

/// Any non-negative quantity that a pod can name, and the extremes.
fn amounts() -> impl Strategy<Value = Quantity> {
    prop_oneof![
        Just(Quantity::ZERO),
        Just(quantity("1n")),
        Just(Quantity::MAX),
        Just(quantity("9999999999999999999Ei")),
        (0..i64::MAX, prop::sample::select(vec!["", "n", "u", "m", "k", "M", "Ki", "Gi", "Ei"]))
            .prop_map(|(n, unit)| quantity(&format!("{n}{unit}"))),
    ]
}

proptest! {
    #[test]
    fn what_is_accepted_evaluates_for_any_pod(text in texts(), amount in amounts()) {
        for resource in Resource::ALL {
            let text = text.replace("cpu", resource.name());
            let Ok(expression) = Expression::parse(&text, resource) else { continue };
            let result = expression.evaluate(Some(amount)).unwrap();
            prop_assert_eq!(result, result.rounded_up(resource), "{}", text);
            prop_assert_eq!(Quantity::parse(&result.canonical(resource)), Some(result), "{}", text);
        }
    }

    #[test]
    fn a_share_is_exact(percent in 0..1000_u32, millis in 0..1_000_000_000_u64) {
        let share = parse(&format!("cpu * {percent}%")).unwrap();
        let expected = (u64::from(percent) * millis).div_ceil(100);
        let result = share.evaluate(Some(quantity(&format!("{millis}m"))));
        prop_assert_eq!(result, Some(quantity(&format!("{expected}m"))));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,64}", grammar in "[cpumaxin0-9e%()*/+., KiG-]{0,64}") {
        for text in [text, grammar] {
            if let Err(error) = parse(&text) {
                prop_assert!(error.position <= text.len(), "{}", error);
            }
        }
    }
}
