//! What `convert` makes of other injectors' manifests is accepted by the apiserver.

use kube::api::{Patch, PatchParams};
use sidecarset::cli::convert::{Document, convert};

use crate::common::raw::{documents, repository};
use crate::common::world::World;

#[tokio::test]
async fn converted_sets_are_accepted_with_strict_field_validation() {
    let world = World::shared("convert").await;
    for file in ["kruise.yaml", "tumblr.yaml"] {
        let yaml = std::fs::read_to_string(repository("tests/convert").join(file)).unwrap();
        let document = |value| Document { file: file.to_owned(), value };
        let input: Vec<Document> = documents(&yaml).into_iter().map(document).collect();
        let conversion = convert(&input).unwrap();
        assert_eq!(conversion.sets.len(), input.len());
        for set in conversion.sets {
            let name = set["metadata"]["name"].as_str().unwrap();
            let params = PatchParams::apply("convert").dry_run().validation_strict();
            let answer = world.sets().patch(name, &params, &Patch::Apply(&set)).await;
            assert!(answer.is_ok(), "{file}: {name}: {answer:?}");
        }
    }
    world.end().await;
}
