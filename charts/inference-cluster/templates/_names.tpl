{{/* The name of the InferenceCluster and of its Service. */}}
{{- define "cluster.name" -}}
{{- $name := .Values.name | default .Release.Name -}}
{{- if or (gt (len $name) 40) (not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name)) -}}
{{- fail (printf "%q cannot be the name of an InferenceCluster: use at most 40 characters of a-z, 0-9 and '-', a letter first and no '-' last; set another name with --set name=NAME" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "cluster.labels" -}}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: lockstep
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* The image of the test's pod. */}}
{{- define "cluster.testImage" -}}
{{- with .Values.test.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
{{- end -}}
