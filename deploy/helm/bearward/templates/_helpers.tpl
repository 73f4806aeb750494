{{- define "bearward.name" -}}
{{- $long := printf "%s-%s" .Release.Name .Chart.Name }}
{{- contains .Chart.Name .Release.Name | ternary .Release.Name $long | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "bearward.selector" -}}
app.kubernetes.io/name: bearward
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "bearward.labels" -}}
{{ include "bearward.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "bearward.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Whoever has the admin token may all; so the listener that all addresses reach gives nothing but probes without it. */}}
{{- define "bearward.config" -}}
{{- $keys := merge (dict "path" "/run/secrets/bearward/keys") (.Values.config.keys | default dict) }}
{{- $tls := dict "certificate" "/run/secrets/bearward/tls/tls.crt" "private_key" "/run/secrets/bearward/tls/tls.key" }}
{{- $admin := dict "address" "0.0.0.0:9090" "token_file" "/run/secrets/bearward/admin/token" }}
{{- if eq .Values.mode "sidecar" }}{{ $_ := set $admin "ready_with_upstreams" true }}{{ end }}
{{- $ours := dict "listeners" (list (dict "address" "0.0.0.0:8443" "tls" $tls)) "admin" $admin "keys" $keys }}
{{- merge $ours (omit .Values.config "keys") | toYaml }}
{{- end }}

{{- define "bearward.container" -}}
name: bearward
{{- with .Values.image }}
image: {{ if .digest }}{{ printf "%s@%s" .repository .digest }}{{ else }}{{ printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) }}{{ end }}
imagePullPolicy: {{ .pullPolicy }}
{{- end }}
args: [run]
ports:
  - {name: https, containerPort: 8443}
  - {name: admin, containerPort: 9090}
startupProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 1
  failureThreshold: 30
livenessProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 10
  timeoutSeconds: 5
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 5
  timeoutSeconds: 5
resources: {{- toYaml .Values.resources | nindent 2 }}
securityContext: {{- include "bearward.confined" . | nindent 2 }}
# Mount directories, never a subPath: changes to a single mounted file do not arrive.
volumeMounts:
  - {name: config, mountPath: /etc/bearward, readOnly: true}
  - {name: keys, mountPath: /run/secrets/bearward/keys, readOnly: true}
  - {name: tls, mountPath: /run/secrets/bearward/tls, readOnly: true}
  - {name: admin, mountPath: /run/secrets/bearward/admin, readOnly: true}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.extraEnv }}
env: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
