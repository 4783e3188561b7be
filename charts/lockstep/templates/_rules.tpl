{{/* The rights of the operator in a namespace, one rule for each reason. */}}
{{- define "lockstep.rules" -}}
# The clusters that users ask for.
- apiGroups: [lockstep.dev]
  resources: [inferenceclusters]
  verbs: [get, list, watch]
# The status of clusters: conditions, groups, ranks, endpoint.
- apiGroups: [lockstep.dev]
  resources: [inferenceclusters/status]
  verbs: [patch, update]
# Some API servers let only users who may change finalizers set owner references that block deletion.
- apiGroups: [lockstep.dev]
  resources: [inferenceclusters/finalizers]
  verbs: [update]
# The head and the workers of each group.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, update, delete]
# The Service for clients, and the headless Services by which the pods of a group find each other.
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, update, delete]
# The CA, the certificates and the groups' keys of each cluster. The operator makes, rotates and deletes these Secrets, and
# reads its own certificate from them. It does not read the tokens that specs refer to: only the kubelet mounts them.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch, update, delete]
# The model caches.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create, patch, update, delete]
# Network policies, which open control and ring ports only within a group.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, update, delete]
# Disruption budgets, so that the drain of a node evicts one pod of a group at a time.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, update, delete]
# Autoscalers, which set the number of groups by the number of waiting requests, if a spec asks for that.
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, update, delete]
# The operator copies into the status why a pod does not run. It deletes pods of an old revision and pods on a lost node. It
# labels the pod of a silent head, so that the Service sends it no clients.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
# Only events tell why a StatefulSet cannot make its pods (quota, Pod Security, webhook) and why a pod mounts no volume.
- apiGroups: [""]
  resources: [events]
  verbs: [list]
# One event for each transition of a cluster or a group.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
# Metrics of heads and ranks, if the kinds of the Prometheus operator exist.
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [get, list, watch, create, patch, update, delete]
{{- end -}}
