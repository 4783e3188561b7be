//! Check of the `restricted` Pod Security standard, as in its admission controller.

use k8s_openapi::api::core::v1::{Container, PodSpec, SecurityContext, Volume};

/// Returns the properties of `pod` that the standard forbids.
pub(super) fn violations(pod: &PodSpec) -> Vec<String> {
    let mut found = Vec::new();
    let whole = pod.security_context.clone().unwrap_or_default();
    if [pod.host_network, pod.host_pid, pod.host_ipc].contains(&Some(true)) {
        found.push("shares a namespace of the node".to_owned());
    }
    if whole.sysctls.is_some() || whole.run_as_user == Some(0) {
        found.push("sets sysctls or runs as root".to_owned());
    }
    found.extend(pod.volumes.iter().flatten().filter(|volume| !is_allowed(volume)).map(|volume| volume.name.clone()));
    let seccomp = whole.seccomp_profile.is_some_and(|profile| profile.type_ == "RuntimeDefault");
    for container in pod.containers.iter().chain(pod.init_containers.iter().flatten()) {
        let own = container.security_context.clone().unwrap_or_default();
        let wrong = container_violations(container, &own, whole.run_as_non_root == Some(true), seccomp);
        found.extend(wrong.into_iter().map(|violation| format!("{}: {violation}", container.name)));
    }
    found
}

fn container_violations(
    container: &Container,
    own: &SecurityContext,
    non_root: bool,
    seccomp: bool,
) -> Vec<&'static str> {
    let capabilities = own.capabilities.clone().unwrap_or_default();
    let ports = container.ports.iter().flatten();
    let checks = [
        ("is privileged", own.privileged == Some(true)),
        ("may escalate", own.allow_privilege_escalation != Some(false)),
        ("keeps capabilities", !capabilities.drop.iter().flatten().any(|one| one == "ALL")),
        ("adds capabilities", capabilities.add.iter().flatten().any(|one| one != "NET_BIND_SERVICE")),
        ("may be root", !own.run_as_non_root.unwrap_or(non_root) || own.run_as_user == Some(0)),
        ("has no seccomp profile", !seccomp && own.seccomp_profile.is_none()),
        ("masks no /proc", own.proc_mount.is_some()),
        ("takes a port of the node", ports.clone().any(|port| port.host_port.is_some())),
    ];
    checks.into_iter().filter(|(_, wrong)| *wrong).map(|(violation, _)| violation).collect()
}

fn is_allowed(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.csi.is_some()
        || volume.downward_api.is_some()
        || volume.empty_dir.is_some()
        || volume.ephemeral.is_some()
        || volume.image.is_some()
        || volume.persistent_volume_claim.is_some()
        || volume.projected.is_some()
        || volume.secret.is_some()
}

#[test]
fn the_check_finds_violations() {
    let mut pod =
        PodSpec { containers: vec![Container { name: "a".into(), ..Default::default() }], ..Default::default() };
    assert_eq!(violations(&pod).len(), 4);
    pod.volumes = Some(vec![Volume { name: "host".into(), host_path: Some(Default::default()), ..Default::default() }]);
    pod.host_network = Some(true);
    assert_eq!(violations(&pod).len(), 6);
}
