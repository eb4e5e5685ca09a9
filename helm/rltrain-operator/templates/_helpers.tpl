{{/*
The name that every object starts with: at most 40 characters, so that suffixes fit into 63. A release called "rltrain"
or "rltrain-operator" gives "rltrain-operator", any other release its own name in front of it.
*/}}
{{- define "rltrain-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if hasPrefix .Release.Name .Chart.Name -}}
{{- .Chart.Name -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "rltrain-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "rltrain-operator.labels" -}}
{{ include "rltrain-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: rltrain
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "rltrain-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "rltrain-operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name: required when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "rltrain-operator.tokenKeySecretName" -}}
{{- default (printf "%s-token-key" (include "rltrain-operator.fullname" .)) .Values.tokenKey.existingSecret -}}
{{- end -}}

{{- define "rltrain-operator.image" -}}
{{- $name := printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- if .Values.image.registry -}}{{ printf "%s/%s" .Values.image.registry $name }}{{- else -}}{{ $name }}{{- end -}}
{{- end -}}

{{/* The webhook's pods bear another name, so that neither Deployment nor Service takes one's pods for the other's. */}}
{{- define "rltrain-operator.webhookSelectorLabels" -}}
app.kubernetes.io/name: rltrain-webhook
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "rltrain-operator.webhookLabels" -}}
{{ include "rltrain-operator.webhookSelectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: rltrain
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "rltrain-operator.webhookName" -}}
{{- include "rltrain-operator.fullname" . }}-webhook
{{- end -}}

{{- define "rltrain-operator.webhookSecretName" -}}
{{- include "rltrain-operator.webhookName" . }}-certificates
{{- end -}}

{{/* The name that the API server calls, and that the certificate is for. */}}
{{- define "rltrain-operator.webhookHost" -}}
{{- printf "%s.%s.svc" (include "rltrain-operator.webhookName" .) .Release.Namespace -}}
{{- end -}}

{{/* Pods of one Deployment on different nodes where there are some. Called with a list: how many, and their labels. */}}
{{- define "rltrain-operator.apart" -}}
{{- if gt (int (index . 0)) 1 }}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels: {{- index . 1 | nindent 12 }}
{{- end }}
{{- end -}}

{{/* What every pod of this release may and may not do, whatever it runs. */}}
{{- define "rltrain-operator.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "rltrain-operator.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
