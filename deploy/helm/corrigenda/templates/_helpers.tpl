{{- define "corrigenda.name" -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- define "corrigenda.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
{{- define "corrigenda.labels" -}}
{{ include "corrigenda.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}
{{- define "corrigenda.shared" -}}
{{- if or .Values.memory.url .Values.memory.existingSecret }}yes{{ end -}}
{{- end -}}
