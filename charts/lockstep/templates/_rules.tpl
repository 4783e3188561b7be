{{/* What the operator does with the objects of a namespace. One rule for each reason. */}}
{{- define "lockstep.rules" -}}
# What users ask for.
- apiGroups: [lockstep.dev]
  resources: [inferenceclusters]
  verbs: [get, list, watch]
# What the operator answers: conditions, groups, ranks, the endpoint.
- apiGroups: [lockstep.dev]
  resources: [inferenceclusters/status]
  verbs: [patch, update]
# Owner references that block deletion may be set only by who may change finalizers, where the API server checks that.
- apiGroups: [lockstep.dev]
  resources: [inferenceclusters/finalizers]
  verbs: [update]
# Head and workers of each group.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, update, delete]
# The clients' endpoint, and the names by which the pods of a group find each other.
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, update, delete]
# Each cluster's own CA, its certificates and the groups' keys: made, rotated and removed here. The operator's own
# certificate is in there too, so it reads them. The tokens that specs refer to are mounted by the kubelet alone.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch, update, delete]
# Model caches.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create, patch, update, delete]
# Control and ring ports are open within a group alone.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, update, delete]
# Drains of nodes take no more of a group than it survives.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, update, delete]
# The number of groups, by requests that wait, where a spec has bounds for it.
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, update, delete]
# Why a pod does not run goes into status; pods of an old revision, and pods stuck on a lost node, are deleted.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete]
# Only events tell why a StatefulSet cannot make its pods (quota, Pod Security, webhook) and why a pod mounts no volume.
- apiGroups: [""]
  resources: [events]
  verbs: [list]
# One event for each transition.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
# Metrics of heads and ranks, where the Prometheus operator's kinds exist.
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [get, list, watch, create, patch, update, delete]
{{- end -}}
