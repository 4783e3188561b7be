//! Models that no process can load: the table says so, and why.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use lockstep_tests::cluster::{Namespace, eventually, kubectl};
use lockstep_tests::manifests;
use lockstep_tests::wrong_models::{WRONG_MODELS, WrongModel};

use super::steps::LONGEST_WAIT;

/// One pod a cluster, and little enough of each node that all clusters fit.
const SMALL: &str = "workers: 0, resources: { requests: { cpu: 1m, memory: 16Mi } }, head: { spec: { containers: [\
                     { name: head, resources: { requests: { cpu: 1m, memory: 16Mi } } }] } }";

pub fn a_model_that_cannot_load_is_named() -> Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    // The pods run as another user.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).context("open the folder")?;
    let namespace = Namespace::new("models")?;
    let volume = Volume::new(&namespace, folder.path())?;
    let clusters = WRONG_MODELS.iter().map(|wrong| {
        wrong.write(&folder.path().join(wrong.name));
        let spec = format!("{{ model: {{ source: 'pvc://models/{}' }}, {SMALL} }}", wrong.name);
        manifests::cluster(wrong.name, &spec)
    });
    namespace.apply(&clusters.collect::<Vec<_>>().join("---\n"))?;
    eventually("every model's fault to be shown", LONGEST_WAIT, || {
        let table = namespace.kubectl(&["get", "icl", "--no-headers"])?;
        WRONG_MODELS.iter().try_for_each(|wrong| expect_row(wrong, &table))
    })?;
    drop(volume);
    Ok(())
}

/// Looks for the model's row in the table, with its reason and its words.
fn expect_row(wrong: &WrongModel, table: &str) -> Result<()> {
    let row = table.lines().find(|row| row.split_whitespace().next() == Some(wrong.name)).context("the row")?;
    let reason = if wrong.words.contains("is missing in") { "ModelNotFound" } else { "ModelUnusable" };
    let found = row.split_whitespace().any(|column| column == reason) && row.contains(wrong.words);
    ensure!(found, "not `{reason}` and `{}`: {row}", wrong.words);
    Ok(())
}

/// A volume of a folder on this machine, which ends with the test.
struct Volume(String);

impl Volume {
    fn new(namespace: &Namespace, folder: &Path) -> Result<Self> {
        let name = namespace.name();
        let volume = format!(
            "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {name}}}\nspec:\n  \
             {{capacity: {{storage: 1Gi}}, accessModes: [ReadOnlyMany], storageClassName: '', \
             claimRef: {{namespace: {name}, name: models}}, hostPath: {{path: '{}'}}}}\n",
            folder.display()
        );
        let claim = "---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: models}\nspec:\n  \
                     {accessModes: [ReadOnlyMany], storageClassName: '', resources: {requests: {storage: 1Gi}}}\n";
        namespace.apply(&(volume + claim))?;
        Ok(Self(name.to_owned()))
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        kubectl(&["delete", "persistentvolume", &self.0, "--wait=false"]).ok();
    }
}
