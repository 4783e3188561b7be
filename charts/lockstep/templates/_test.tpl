{{/* Where the test makes its group: beside the operator, or in the first namespace that it watches. */}}
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
