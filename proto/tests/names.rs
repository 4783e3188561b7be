//! Names are listed where they are promised to be, and none is another's double.

use lockstep_proto::names::env;

#[test]
fn all_variables_are_listed_once() {
    let source = include_str!("../src/names.rs");
    let module = source.split("/// Hugging Face's own").next().unwrap_or_default();
    let spelled: Vec<&str> =
        module.lines().filter_map(|line| line.split_once(": &str = \"")?.1.strip_suffix("\";")).collect();
    assert!(spelled.len() > 30, "{spelled:?}");
    assert_eq!(spelled, env::ALL, "names::env::ALL must list the variables in their order");
}
