//! The states of a cluster, each in one word ([`Reason`]) with its text and its remedy. The operator's conditions, its
//! events and `lockstep why` take the word and the text from here.

use serde::Serialize;

/// Names that the texts of a reason are filled with.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Subject<'a> {
    /// Name of the cluster.
    pub cluster: &'a str,
    /// Name of the pod at fault.
    pub pod: &'a str,
    /// Image, container, claim, Kubernetes node, StatefulSet, resource or group at fault. For [`Reason::Serving`], the
    /// endpoint of the cluster.
    pub object: &'a str,
    /// Clause that says more.
    pub detail: &'a str,
}

impl Subject<'_> {
    fn fill(&self, text: &str) -> String {
        let mut filled = String::new();
        let mut rest = text;
        // Names may hold braces: only the text itself is searched for placeholders.
        while let Some((before, after)) = rest.split_once('{') {
            let (key, tail) = after.split_once('}').unwrap_or((after, ""));
            filled.push_str(before);
            filled.push_str(match key {
                "cluster" => self.cluster,
                "pod" => self.pod,
                "object" => self.object,
                _ => self.detail,
            });
            rest = tail;
        }
        filled.push_str(rest);
        filled
    }
}

macro_rules! reasons {
    ($($kind:ident $name:ident { $text:literal, $remedy:literal })*) => {
        /// State of a cluster in one word, for conditions, events and programs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
        pub enum Reason {
            $(#[doc = $text] $name,)*
        }

        impl Reason {
            /// All reasons, in the order of their definition.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Returns the word as Kubernetes wants it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// Returns true if something is wrong, even if the group recovers by itself ([`Self::Recovering`]). Returns
            /// false for the normal steps of a cluster and for a state that the spec asks for.
            #[must_use]
            pub fn is_fault(self) -> bool {
                match self { $(Self::$name => reasons!(@is_fault $kind),)* }
            }

            pub(super) fn text(self, subject: Subject<'_>) -> String {
                subject.fill(match self { $(Self::$name => $text,)* })
            }

            pub(super) fn remedy(self, subject: Subject<'_>) -> String {
                subject.fill(match self { $(Self::$name => $remedy,)* })
            }
        }
    };
    (@is_fault fault) => { true };
    (@is_fault state) => { false };
}

reasons! {
    state Serving { "{cluster} serves at {object}: {detail}", "ask it: lockstep generate {cluster} \"Once upon a time\"" }
    state ScaledToZero {
        "spec.replicas is 0, so no group serves",
        "give the cluster a group: kubectl scale icl {cluster} --replicas=1"
    }
    state Deleting {
        "the deletion of {cluster} began at {detail}",
        "wait until it is gone, then apply it again if it should serve"
    }

    state WaitingForOperator { "{detail}", "wait a few seconds and ask again" }
    fault OperatorNotRunning {
        "{detail}",
        "see that the operator runs and watches this namespace: kubectl get pods -A -l app.kubernetes.io/name=lockstep,\
         app.kubernetes.io/component=operator, and read its logs; install it with `helm install lockstep charts/lockstep` \
         where it is missing"
    }
    fault InvalidSpec { "the operator refuses the spec: {detail}", "change the spec as the message says and apply it again" }
    fault NameTaken { "{detail}", "rename this cluster, or delete the object that has the name" }
    fault ApiServerRefused {
        "the API server refused the operator's request: {detail}",
        "do what the API server's message says; the operator tries again by itself"
    }

    fault QuotaExceeded {
        "the namespace's quota has no room for the pods of {object}",
        "raise the ResourceQuota (kubectl describe quota), ask for less in spec.resources, or lower spec.workers or \
         spec.replicas"
    }
    fault PodSecurityRefused {
        "Pod Security refuses the pods of {object}",
        "take out of spec.template, spec.head and spec.worker what the message names, or relax the namespace's label \
         pod-security.kubernetes.io/enforce"
    }
    fault PodsRefused {
        "Kubernetes refuses to make the pods of {object}",
        "do what the message says, or ask the owner of the admission policy that the message names"
    }
    fault NodeLost {
        "the Kubernetes node {object}, which runs {pod}, is not ready",
        "bring {object} back or delete it (kubectl delete node {object}); the operator replaces the pod once Kubernetes lets \
         the pod go"
    }
    fault PodFailed {
        "{pod} failed as a whole",
        "see kubectl describe pod {pod}: its Kubernetes node evicted or refused the pod; Kubernetes makes another pod"
    }

    state Queued {
        "{pod} is held by a scheduling gate",
        "wait for the queue (Kueue) that holds the pod, or remove the pod's scheduling gates"
    }
    fault ClaimMissing {
        "{pod} needs the PersistentVolumeClaim {object}, which does not exist",
        "create the claim {object} in this namespace, or name another one"
    }
    fault VolumeUnbound {
        "{pod} waits for a volume that is not bound",
        "see kubectl describe pvc: the storage class must exist and have room"
    }
    fault InsufficientResources {
        "no Kubernetes node has enough free {object} for {pod}",
        "add Kubernetes nodes or free some {object}, or ask for less in spec.resources, spec.devicesPerNode, spec.workers \
         or spec.replicas; for a device see what the Kubernetes nodes offer (kubectl get nodes \
         -o custom-columns=NAME:.metadata.name,HAS:.status.allocatable), \
         install its device plugin, or set spec.backend to Ring to run on CPUs"
    }
    fault TaintNotTolerated {
        "no Kubernetes node takes {pod}: the pod does not tolerate the taints of the nodes",
        "add tolerations to spec.template.spec.tolerations, or remove the taints (kubectl taint)"
    }
    fault NoMatchingNode {
        "no Kubernetes node takes {pod}: none matches the pod's node selector, affinity or spread",
        "label Kubernetes nodes as spec.template asks, change spec.template, or set spec.placement.policy to Spread or Any"
    }
    fault Unschedulable {
        "the scheduler finds no Kubernetes node for {pod}",
        "do what the scheduler's message asks: free room, or change spec.resources or spec.template"
    }

    fault ImageInvalid { "{object} is no image reference ({pod})", "set spec.image to REGISTRY/NAME:TAG" }
    fault PullSecretMissing {
        "{pod} cannot pull {object}: a pull secret of the pod does not exist",
        "create the secret in this namespace (kubectl create secret docker-registry), or correct spec.imagePullSecrets"
    }
    fault ImagePullDenied {
        "the registry does not let {pod} pull {object}",
        "see that the image's name is right; if it is private, create a secret (kubectl create secret docker-registry) and \
         name the secret in spec.imagePullSecrets"
    }
    fault ImageAbsent {
        "{object} is not on the Kubernetes node of {pod}, and spec.imagePullPolicy forbids to pull it",
        "load the image onto the Kubernetes nodes, or set spec.imagePullPolicy to IfNotPresent"
    }
    fault ImageNotFound {
        "{pod} cannot pull the image {object}",
        "correct spec.image (or the operator's --agent-image), push the image, or see that the Kubernetes \
         nodes reach the registry"
    }
    fault VolumeNotMounted {
        "a volume of {pod} cannot be mounted",
        "see that the claim, Secret, ConfigMap or volume that the message names exists and can be used on the \
         Kubernetes node of {pod}"
    }
    fault ContainerCannotStart {
        "container {object} of {pod} cannot be started",
        "create what the message names (a Secret, a ConfigMap, a key in one), or take it out of spec.env and spec.template"
    }

    fault OutOfMemory {
        "container {object} of {pod} was OOMKilled: it needed more memory than it may have ({detail})",
        "raise spec.resources.limits.memory, lower spec.serving.kvCacheMemory or spec.serving.contextLength, or spread the \
         model over more workers"
    }
    fault ModelNotFound {
        "{pod} does not find the model",
        "correct spec.model.source, or put the model (config.json, tokenizer and weights, or a GGUF file) where \
         spec.model.source points"
    }
    fault ModelUnusable {
        "{pod} can never serve this model",
        "do what the container's last line says: put the model's files right, or change spec.model or spec.serving"
    }
    fault CrashLoop {
        "container {object} of {pod} ended with {detail}",
        "read the container's last lines: lockstep logs {cluster} --previous; then change the part of the spec that they name"
    }
    fault RestartBudgetSpent {
        "{detail}",
        "change the spec as the container's last lines ask: the operator then starts the group again"
    }

    state WaitingForOtherGroups {
        "group {object} waits until the groups before it are scheduled",
        "wait; watch it with: lockstep status {cluster} --watch"
    }
    state Creating {
        "the pods of group {object} are being started",
        "wait; watch it with: lockstep status {cluster} --watch"
    }
    state Loading { "group {object} {detail}", "wait; watch it with: lockstep status {cluster} --watch" }
    fault Recovering {
        "group {object} stopped serving and forms again; {detail}",
        "wait: Kubernetes starts a lost rank again; watch it with: lockstep status {cluster} --watch"
    }
    state Draining {
        "group {object} finishes its requests, and then ends",
        "wait; watch it with: lockstep status {cluster} --watch"
    }
    state Updating {
        "the operator replaces group {object} by a group of the new spec",
        "wait; watch it with: lockstep status {cluster} --watch"
    }

    fault NotReady {
        "{detail}",
        "look closer: lockstep status {cluster}, lockstep logs {cluster}, kubectl describe icl {cluster}"
    }
}
