{{/* The namespace of the test's group: that of the operator, or the first namespace that the operator watches. */}}
{{- define "lockstep.testNamespace" -}}
{{- if or (not .Values.watchNamespaces) (has .Release.Namespace .Values.watchNamespaces) -}}
{{- .Release.Namespace -}}
{{- else -}}
{{- first .Values.watchNamespaces -}}
{{- end -}}
{{- end -}}

{{- define "lockstep.testName" -}}
{{- printf "%s-test" (include "lockstep.fullname" . | trunc 34 | trimSuffix "-") -}}
{{- end -}}
