//! Environment variables that a sidecar takes over, each of which must mean there what it means in the pod's container.
//!
//! The kubelet goes through `env` in order. `$(NAME)` in a value is what stands last of that name before it; else what
//! `envFrom` or a Service gives; else the text itself (`makeEnvironmentVariables` in `pkg/kubelet/kubelet_pods.go`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::patch::elements;
use crate::api::canonical::{canonical, same};

/// The variables of one of the pod's own containers.
pub(super) struct Variables<'a> {
    pub(super) container: &'a Value,
    env: Vec<&'a Value>,
    env_from: Vec<&'a Value>,
    /// Where in `env` the variables of a name stand.
    places: BTreeMap<&'a str, Vec<usize>>,
    /// What the sidecar has taken over already, with all that it refers to.
    taken: BTreeSet<usize>,
}

/// What variables stand for, seen from their container.
struct Reach<'a> {
    /// Those of `env` that are not taken yet, in order.
    env: BTreeSet<usize>,
    /// Names that `env` does not define where they are used.
    others: BTreeSet<&'a str>,
}

impl<'a> Variables<'a> {
    pub(super) fn of(container: &'a Value) -> Self {
        let env: Vec<&Value> = elements(container, &["env"]).collect();
        let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (place, variable) in env.iter().enumerate() {
            places.entry(name(variable)).or_default().push(place);
        }
        Self { container, env, env_from: elements(container, &["envFrom"]).collect(), places, taken: BTreeSet::new() }
    }

    /// The variable of a name as one sees it that stands at a place: the last before.
    fn seen_from(&self, place: usize, name: &str) -> Option<usize> {
        let places = self.places.get(name)?;
        places[..places.partition_point(|other| *other < place)].last().copied()
    }

    /// Whether `envFrom` can have a variable of this name; nobody here knows what it has.
    fn may_give(&self, name: &str) -> bool {
        self.env_from.iter().any(|source| name.starts_with(source["prefix"].as_str().unwrap_or_default()))
    }

    /// Whether the container can have a variable of this name. A Service may give it, too: `WEB_SERVICE_HOST`,
    /// `WEB_PORT_80_TCP_ADDR`.
    pub(super) fn may_have(&self, name: &str) -> bool {
        let of_service = ["_SERVICE_", "_PORT"].iter().any(|part| name.contains(part));
        of_service || self.places.contains_key(name) || self.may_give(name)
    }

    fn references(&self, place: usize) -> Vec<&'a str> {
        references(self.env[place]["value"].as_str().unwrap_or_default())
    }

    /// All that these names stand for, directly or not.
    fn reach<'b>(&self, names: &[&'b str]) -> Result<Reach<'b>, String>
    where
        'a: 'b,
    {
        let mut reach = Reach { env: BTreeSet::new(), others: BTreeSet::new() };
        let mut open = BTreeSet::new();
        for name in names {
            match self.seen_from(self.env.len(), name) {
                Some(place) => _ = open.insert(place),
                None if self.may_give(name) => _ = reach.others.insert(*name),
                None => return Err(format!("container {:?} has no environment variable {name:?}", self.name())),
            }
        }
        open.retain(|place| !self.taken.contains(place));
        // From the end, as references go to the front: each is met once.
        while let Some(place) = open.pop_last() {
            for name in self.references(place) {
                match self.seen_from(place, name) {
                    Some(other) if self.taken.contains(&other) => {}
                    Some(other) => _ = open.insert(other),
                    None => _ = reach.others.insert(name),
                }
            }
            reach.env.insert(place);
        }
        Ok(reach)
    }

    /// The variable as it must be written in another container.
    fn elsewhere(&self, place: usize) -> Value {
        let mut variable = self.env[place].clone();
        if let Some(Value::Object(resource)) = variable.pointer_mut("/valueFrom/resourceFieldRef")
            && resource.get("containerName").and_then(Value::as_str).is_none_or(str::is_empty)
        {
            resource.insert("containerName".to_owned(), json!(self.name()));
        }
        variable
    }

    fn name(&self) -> &'a str {
        name(self.container)
    }
}

/// The variables of a sidecar: its own, and behind them what it takes over.
pub(super) struct Environment {
    env: Vec<Value>,
    env_from: Vec<Value>,
    /// How many of `env` are its own.
    own: usize,
    /// Where in `env` each name stands.
    places: BTreeMap<String, usize>,
    /// Its sources are those of one container behind its own: of two, the second could change what the first gives.
    followed: Option<Vec<Value>>,
    /// Names that are left to those.
    given: BTreeSet<String>,
}

impl Environment {
    pub(super) fn of(sidecar: &Value) -> Self {
        let env: Vec<Value> = elements(sidecar, &["env"]).cloned().collect();
        let places = env.iter().enumerate().map(|(place, variable)| (name(variable).to_owned(), place)).collect();
        let env_from = elements(sidecar, &["envFrom"]).cloned().collect();
        Self { own: env.len(), env, env_from, places, followed: None, given: BTreeSet::new() }
    }

    /// Whether a variable is the sidecar's own.
    pub(super) fn owns(&self, name: &str) -> bool {
        self.places.get(name).is_some_and(|place| *place < self.own)
    }

    pub(super) fn write(self, sidecar: &mut Value) {
        for (field, list) in [("env", self.env), ("envFrom", self.env_from)] {
            if !list.is_empty() {
                sidecar[field] = Value::Array(list);
            }
        }
    }

    /// Takes these variables over with all that they refer to, or none of it, and says why.
    pub(super) fn take(&mut self, from: &mut Variables<'_>, names: &[&str]) -> Result<(), String> {
        let Reach { env, others } = from.reach(names)?;
        let mut added: BTreeMap<&str, Value> = BTreeMap::new();
        let mut order = Vec::new();
        for &place in &env {
            let (name, variable) = (name(from.env[place]), from.elsewhere(place));
            let is_there = self.places.get(name).is_some_and(|own| self.means_the_same(*own, from, place, &variable));
            let is_taken = self.places.contains_key(name) || self.given.contains(name);
            if !is_there && (is_taken || added.insert(name, variable).is_some()) {
                return Err(another(from, name));
            }
            order.extend((!is_there).then_some(name));
        }
        if let Some(name) = others.iter().find(|name| self.places.contains_key(**name)) {
            return Err(another(from, name));
        }
        let given: Vec<&str> = others.into_iter().filter(|name| from.may_give(name)).collect();
        if !given.is_empty() {
            self.follow(from)?;
        }
        self.given.extend(given.into_iter().map(str::to_owned));
        for name in order {
            self.places.insert(name.to_owned(), self.env.len());
            self.env.extend(added.remove(name));
        }
        from.taken.extend(env);
        Ok(())
    }

    /// Whether a variable of the sidecar is that of the container, and refers to variables that stand in front of it.
    fn means_the_same(&self, own: usize, from: &Variables<'_>, place: usize, variable: &Value) -> bool {
        let is_seen = |name: &&str| {
            from.seen_from(place, name).is_none() || self.places.get(*name).is_some_and(|other| *other < own)
        };
        same("env", &self.env[own], variable) && from.references(place).iter().all(is_seen)
    }

    /// Takes the sources of variables over, so that they give what they give in the container: the last one wins.
    fn follow(&mut self, from: &Variables<'_>) -> Result<(), String> {
        let form = |source: &Value| canonical("envFrom", source);
        let theirs: Vec<Value> = from.env_from.iter().map(|source| form(source)).collect();
        let own: Vec<Value> = self.env_from.iter().map(form).collect();
        let missing =
            from.env_from.iter().filter(|source| !own.contains(&form(source))).map(|source| (*source).clone());
        let all: Vec<Value> = self.env_from.iter().cloned().chain(missing).collect();
        let is_first = self.followed.as_ref().is_none_or(|followed| *followed == theirs);
        if !is_first || !all.iter().map(form).collect::<Vec<_>>().ends_with(&theirs) {
            let why = "the sidecar has another one, and nobody knows which variables each of them has";
            return Err(format!("envFrom of container {:?} is needed, and {why}", from.name()));
        }
        self.env_from = all;
        self.followed = Some(theirs);
        Ok(())
    }
}

fn another(from: &Variables<'_>, name: &str) -> String {
    format!("the sidecar has another environment variable {name:?} than container {:?}", from.name())
}

fn name(value: &Value) -> &str {
    value["name"].as_str().unwrap_or_default()
}

/// Names in `$(NAME)`; `$$(NAME)` is an escape (`k8s.io/kubernetes/third_party/forked/golang/expansion`).
pub(super) fn references(expression: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut rest = expression;
    while let Some(dollar) = rest.find('$') {
        rest = &rest[dollar + 1..];
        if let Some(escaped) = rest.strip_prefix('$') {
            rest = escaped;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            names.push(name);
            rest = after;
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The sidecar with what it takes over, and why the rest is left out.
    fn take(sidecar: &Value, container: &Value, wanted: &[&[&str]]) -> (Value, Vec<String>) {
        let (mut sidecar, mut environment) = (sidecar.clone(), Environment::of(sidecar));
        let mut from = Variables::of(container);
        let refusals = wanted.iter().filter_map(|names| environment.take(&mut from, names).err()).collect();
        environment.write(&mut sidecar);
        (sidecar, refusals)
    }

    fn config(name: &str, prefix: &str) -> Value {
        json!({"configMapRef": {"name": name}, "prefix": prefix})
    }

    /// Of each row: the container, the sidecar, what is wanted, what the sidecar has then, and why not, if so.
    #[test]
    fn a_variable_comes_with_all_that_it_means_or_not_at_all() {
        let pod_name = json!({"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}});
        let defaulted =
            json!({"name": "POD", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}});
        let set = |name: &str, value: &str| json!({"name": name, "value": value});
        let (a, b) = (set("A", "a"), set("B", "$(A)"));
        let limit = |container: Value| {
            let mut resource = json!({"resource": "limits.cpu"});
            resource.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
            json!({"name": "CPU", "valueFrom": {"resourceFieldRef": resource}})
        };
        let chain = |of: &[&Value]| json!({"env": of});
        let sources = |of: &[&Value]| json!({"envFrom": of});
        let (m, n) = (config("m", ""), config("n", ""));
        let rows: Vec<(Value, Value, &[&str], Value, &str)> = vec![
            (chain(&[&a, &b, &set("C", "$(B)$$(X)")]), json!({}), &["C"], chain(&[&a, &b, &set("C", "$(B)$$(X)")]), ""),
            (chain(&[&a, &set("A", "2")]), json!({}), &["A"], chain(&[&set("A", "2")]), ""),
            // What stands behind is the text itself.
            (chain(&[&b, &a]), json!({}), &["B"], chain(&[&b]), ""),
            (chain(&[&b, &a]), json!({}), &["A", "B"], chain(&[&b, &a]), ""),
            (chain(&[&b]), chain(&[&a]), &["B"], chain(&[&a]), "another environment variable \"A\""),
            (chain(&[&a, &b, &set("A", "2")]), json!({}), &["A", "B"], json!({}), "another environment variable \"A\""),
            (chain(&[&defaulted]), chain(&[&pod_name]), &["POD"], chain(&[&pod_name]), ""),
            (chain(&[&a]), chain(&[&set("A", "2")]), &["A"], chain(&[&set("A", "2")]), "another environment variable"),
            // The sidecar's own is the same, and comes too early to see what it refers to.
            (chain(&[&a, &b]), chain(&[&b]), &["B"], chain(&[&b]), "another environment variable \"B\""),
            (chain(&[&a, &b]), chain(&[&a, &b]), &["B"], chain(&[&a, &b]), ""),
            (chain(&[&limit(json!({}))]), json!({}), &["CPU"], chain(&[&limit(json!({"containerName": "app"}))]), ""),
            (chain(&[&a]), json!({}), &["X"], json!({}), "container \"app\" has no environment variable \"X\""),
            (sources(&[&config("m", "P_")]), json!({}), &["X"], json!({}), "has no environment variable \"X\""),
            (sources(&[&config("m", "P_")]), json!({}), &["P_X"], sources(&[&config("m", "P_")]), ""),
            (sources(&[&m]), sources(&[&n]), &["X"], sources(&[&n, &m]), ""),
            (sources(&[&m]), sources(&[&m]), &["X"], sources(&[&m]), ""),
            (sources(&[&m]), sources(&[&m, &n]), &["X"], sources(&[&m, &n]), "envFrom"),
            (sources(&[&m]), chain(&[&a]), &["A"], chain(&[&a]), "another environment variable \"A\""),
            (json!({"env": [b], "envFrom": [m]}), json!({}), &["B"], json!({"env": [b], "envFrom": [m]}), ""),
        ];
        for (i, (mut container, sidecar, wanted, have, why)) in rows.into_iter().enumerate() {
            container["name"] = json!("app");
            let (result, refusals) = take(&sidecar, &container, &[wanted]);
            assert_eq!(result, have, "row {i}");
            let said = refusals.join("");
            assert!(said.contains(why) && said.is_empty() == why.is_empty(), "row {i}: {said}");
        }
    }

    #[test]
    fn the_sources_of_a_second_container_are_not_put_over_those_of_the_first() {
        let mut environment = Environment::of(&json!({}));
        let containers = ["m", "n"].map(|map| json!({"name": map, "envFrom": [config(map, "")]}));
        let [first, second] = containers.each_ref().map(|container| {
            let mut from = Variables::of(container);
            environment.take(&mut from, &["TEAM"])
        });
        assert_eq!(first, Ok(()));
        assert!(second.unwrap_err().contains("envFrom of container \"n\""));
    }

    #[test]
    fn a_long_chain_is_taken_in_one_walk() {
        let link = |i: u32| json!({"name": format!("V{i}"), "value": format!("$(V{})", i.wrapping_sub(1))});
        let env: Vec<Value> = (0..20_000).map(link).collect();
        let (sidecar, refusals) = take(&json!({}), &json!({"name": "app", "env": env}), &[&["V19999"], &["V19998"]]);
        assert_eq!((sidecar["env"].as_array().map(Vec::len), refusals), (Some(20_000), Vec::new()));
    }

    /// What the kubelet makes of `env` and `envFrom`.
    fn started(container: &Value, maps: &Value) -> BTreeMap<String, String> {
        let mut variables = BTreeMap::new();
        for source in elements(container, &["envFrom"]) {
            let data = maps[source["configMapRef"]["name"].as_str().unwrap()].as_object().unwrap();
            variables.extend(data.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())));
        }
        for variable in elements(container, &["env"]) {
            let mut value = variable["value"].as_str().unwrap().to_owned();
            for reference in references(variable["value"].as_str().unwrap()) {
                if let Some(other) = variables.get(reference) {
                    value = value.replacen(&format!("$({reference})"), other, 1);
                }
            }
            variables.insert(name(variable).to_owned(), value);
        }
        variables
    }

    fn any_container(names: &'static [&'static str]) -> impl Strategy<Value = Value> {
        let value = prop_oneof![Just("1"), Just("2"), Just("$(A)-"), Just("$(B)-"), Just("$(C)-")];
        let env = prop::collection::vec((prop::sample::select(names), value), 0..6);
        let sources = prop::sample::subsequence(vec!["m", "n"], 0..=2);
        (env, sources).prop_map(|(env, sources)| {
            let env: Vec<Value> = env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
            let sources: Vec<Value> = sources.iter().map(|map| config(map, "")).collect();
            json!({"name": "app", "env": env, "envFrom": sources})
        })
    }

    proptest! {
        #[test]
        fn what_is_taken_over_has_the_value_that_it_has_in_the_container(
            apps in prop::collection::vec(any_container(&["A", "B", "C"]), 1..3),
            sidecar in any_container(&["A", "D"]),
            wanted in prop::collection::vec(prop::sample::select(vec!["A", "B", "C"]), 1..4),
        ) {
            let maps = json!({"m": {"A": "ma", "B": "mb"}, "n": {"B": "nb", "C": "nc"}});
            let (mut rendered, mut environment, mut taken) = (sidecar.clone(), Environment::of(&sidecar), Vec::new());
            for app in &apps {
                let mut from = Variables::of(app);
                let values = started(app, &maps);
                // Else the container does not start either; and what is left as text could be in the sidecar's envFrom.
                let is_whole = |name: &&&str| values.get(**name).is_some_and(|value| !value.contains("$("));
                for name in wanted.iter().filter(is_whole) {
                    if environment.take(&mut from, &[name]).is_ok() {
                        taken.push((name, values[*name].clone()));
                    }
                }
            }
            environment.write(&mut rendered);
            let values = started(&rendered, &maps);
            for (name, value) in taken {
                prop_assert_eq!(&values[*name], &value, "{} in {}", name, rendered);
            }
        }
    }
}
