//! Who has no certificate of the cluster, or one of another cluster, is turned away at the control port; who cannot prove
//! the group's key, at the ring's.

use anyhow::{Context as _, Result, ensure};
use lockstep_tests::cluster::{Namespace, eventually, kubectl};
use lockstep_tests::manifests;

use super::steps::{LONGEST_WAIT, NAMESPACE, WORKER, field, serves};

/// A worker of the quickstart's group, as it would be if it were one: in the clear, and with the certificates and key of
/// another cluster.
const STRANGERS: &str = r#"
---
apiVersion: v1
kind: Pod
metadata: {name: naked}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
    - {name: rank, image: "lockstep/agent:dev", args: [plain], env: ENV}
---
apiVersion: v1
kind: Pod
metadata: {name: disguised}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
    - name: rank
      image: lockstep/agent:dev
      args: [plain]
      env: [{name: LOCKSTEP_TLS_DIR, value: /tls}, {name: LOCKSTEP_GROUP_KEY_FILE, value: /tls/group.key}, MORE]
      volumeMounts: [{name: tls, mountPath: /tls}]
  volumes: [{name: tls, secret: {secretName: other-node-tls}}]
---
apiVersion: v1
kind: Pod
metadata: {name: knocking}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
    - name: knock
      image: cluster.test/tools:1
      command: [sh, -c, "for i in 1 2 3 4 5; do head -c 4096 /dev/urandom | nc -w 5 ADDRESS 1236 | wc -c; done"]
"#;

pub fn strangers_are_turned_away() -> Result<()> {
    serves(1)?;
    let (epoch, recoveries) = (field(".status.groups[0].epoch")?, field(".status.groups[0].recoveries")?);
    let address = kubectl(&["-n", NAMESPACE, "get", "pod", WORKER, "-o", "jsonpath={.status.podIP}"])?;
    let head = format!("quickstart-0-head-0.quickstart-0.{NAMESPACE}.svc:1235");
    let more = format!(
        "{{name: MISTRALRS_MN_WORKER_ID, value: '0'}}, {{name: MISTRALRS_MN_WORKER_SERVER_ADDR, value: '{head}'}}, \
         {{name: LOCKSTEP_CLUSTER_ID, value: quickstart-0}}"
    );
    let other = manifests::cluster("other", "{ model: { source: 'builtin://tiny' } }");
    let strangers = STRANGERS.replace("ENV", &format!("[{more}]")).replace("MORE", &more).replace("ADDRESS", &address);
    let namespace = Namespace::new("strangers")?;
    namespace.apply(&format!("{other}{strangers}"))?;
    let is_refused = |pod: &str, words: &[&str]| {
        eventually(&format!("{pod} to be turned away"), LONGEST_WAIT, || {
            let log = namespace.kubectl(&["logs", pod])?;
            ensure!(words.iter().any(|word| log.to_lowercase().contains(word)), "{log}");
            ensure!(!log.contains("\"loaded\"") && !log.contains(" loaded "), "{pod} was let in: {log}");
            Ok(())
        })
    };
    is_refused("naked", &["this node has no certificates"])?;
    is_refused("disguised", &["certificate", "issuer", "unknown"])?;
    eventually("the knocking to end", LONGEST_WAIT, || {
        let phase = namespace.kubectl(&["get", "pod", "knocking", "-o", "jsonpath={.status.phase}"])?;
        ensure!(phase == "Succeeded", "{phase}");
        Ok(())
    })?;
    // What answered the noise, if anything did, was the ring's own challenge: never more than a nonce and a proof.
    let answered = namespace.kubectl(&["logs", "knocking"])?;
    let largest =
        answered.lines().filter_map(|line| line.trim().parse::<u32>().ok()).max().context("no answer count")?;
    ensure!(largest < 1024, "a stranger got {largest} bytes: {answered}");
    serves(1)?;
    let now = (field(".status.groups[0].epoch")?, field(".status.groups[0].recoveries")?);
    ensure!(now == (epoch, recoveries), "strangers disturbed the group: {now:?}");
    Ok(())
}
