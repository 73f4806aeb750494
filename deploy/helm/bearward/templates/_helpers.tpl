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

{{- define "bearward.valkey.name" -}}
{{- printf "%s-valkey" (include "bearward.name" . | trunc 56 | trimSuffix "-") }}
{{- end }}

{{- define "bearward.valkey.selector" -}}
app.kubernetes.io/name: bearward-valkey
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "bearward.valkey.labels" -}}
{{ include "bearward.valkey.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* Files of Valkey, with the prefix of the configuration. */}}
{{- define "bearward.valkey.files" -}}
{{- $shared := .Values.config.shared | default dict }}
{{- range $path, $bytes := .Files.Glob "valkey/*" }}
{{ base $path }}: |
  {{- toString $bytes | replace "bw:" (printf "%s:" ($shared.prefix | default "bw")) | nindent 2 }}
{{- end }}
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
{{- if .Values.shared.enabled }}
{{- $valkey := printf "redis://bearward@%s:6379/0" (include "bearward.valkey.name" .) }}
{{- $shared := dict "redis" (ternary $valkey .Values.shared.redis .Values.valkey.enabled) "replicas" (include "bearward.most" . | int) }}
{{- with .Values.secrets.redis }}{{ $_ := set $shared "password" (dict "file" "/run/secrets/bearward/redis/password") }}{{ end }}
{{- $_ := set $ours "shared" (merge (deepCopy (.Values.config.shared | default dict)) $shared) }}
{{- end }}
{{- if .Values.state.enabled }}{{ $_ := set $ours "state" (dict "path" "/var/lib/bearward/state") }}{{ end }}
{{- merge $ours (omit .Values.config "keys" "shared") | toYaml }}
{{- end }}

{{/* The Secret for the Redis or Valkey server, or nothing. */}}
{{- define "bearward.redis" -}}
{{- if .Values.shared.enabled }}{{ .Values.secrets.redis }}{{ end }}
{{- end }}

{{/* The highest number of replicas. */}}
{{- define "bearward.most" -}}
{{- ternary .Values.autoscaling.maxReplicas .Values.replicas (and (eq .Values.mode "gateway") .Values.autoscaling.enabled) }}
{{- end }}

{{/* Whether the only replica has the state, or nothing. No other pod takes over while it restarts. */}}
{{- define "bearward.isAlone" -}}
{{- if and .Values.state.enabled (eq (include "bearward.most" .) "1") }}true{{ end }}
{{- end }}

{{/* A StatefulSet never runs two pods of one name, so no two processes use one volume. */}}
{{- define "bearward.kind" -}}
{{- if .Values.state.enabled }}
{{- if gt (include "bearward.most" . | int) 1 }}
{{- if not .Values.shared.enabled }}
{{- fail "state.enabled: only one process may use a state directory, and several would grant each budget several times. Set replicas=1 and (for mode gateway) autoscaling.enabled=false; or, for several replicas, shared.enabled=true" }}
{{- end }}
{{- if .Values.state.existingClaim }}
{{- fail "state.existingClaim: only one process may use a state directory. For several replicas, leave it empty: each gets a volume of its own" }}
{{- end }}
{{- end }}StatefulSet
{{- else }}Deployment
{{- end }}
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
  {{- if include "bearward.redis" . }}
  - {name: redis, mountPath: /run/secrets/bearward/redis, readOnly: true}
  {{- end }}
  {{- if .Values.state.enabled }}
  # The only directory that bearward writes. `state.path` is a directory in it.
  - {name: state, mountPath: /var/lib/bearward}
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.extraEnv }}
env: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
