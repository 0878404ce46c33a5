{{/* Parts that the pods of both modes share. */}}

{{/*
Environment of every Ray process of mode rayservice, as serve_environment() of deployments/runtime_env.py and
proxy_environment() of server/proxy.py give it to an embedded cluster. RAY_SERVE_* are read at import, so they must be in the
pod, not in the Serve config. gRPC listens on every interface: the HAProxy of each node sends to the hosts of all nodes, and
to those of its own by loopback. (dict "root" $ "pod" <values of head or group>): HAProxy gets a thread for every two of the
pod's CPUs.
*/}}
{{- define "trimtab.serveEnv" -}}
{{- $cpus := dig "limits" "cpu" "1" (default dict .pod.resources) | toString | int }}
{{- with .root }}
- {name: RAY_SERVE_ENABLE_HA_PROXY, value: "1"}
- {name: RAY_SERVE_THROUGHPUT_OPTIMIZED, value: "1"}
- {name: RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH, value: "server.ingress:middlewares"}
- {name: RAY_SERVE_HAPROXY_CONFIG_FILE_LOC, value: /tmp/trimtab/haproxy.cfg}
- {name: RAY_SERVE_HAPROXY_SOCKET_PATH, value: /tmp/trimtab/admin.sock}
- {name: RAY_SERVE_HAPROXY_SERVER_STATE_BASE, value: /tmp/trimtab}
- {name: RAY_SERVE_HAPROXY_SERVER_STATE_FILE, value: /tmp/trimtab/server-state}
- {name: RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH, value: /tmp/trimtab/metrics.sock}
- {name: RAY_SERVE_HAPROXY_METRICS_PORT, value: "9101"}
- {name: RAY_SERVE_HAPROXY_STATS_PORT, value: "8404"}
- {name: RAY_SERVE_HAPROXY_NBTHREAD, value: {{ max 1 (min 4 (div $cpus 2)) | quote }}}
- {name: RAY_SERVE_HAPROXY_METRICS_ENABLED, value: "0"}
- {name: RAY_SERVE_HAPROXY_RETRY_ON, value: conn-failure empty-response}
- {name: RAY_SERVE_HAPROXY_RETRIES, value: "3"}
- {name: RAY_SERVE_HAPROXY_METRICS_ENABLED, value: "0"}
- {name: RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S, value: "3"}
- {name: RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S, value: "1"}
- {name: RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S, value: "2"}
- {name: RAY_worker_niceness, value: "0"}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- {name: RAY_DEDUP_LOGS, value: "0"}
- {name: RAY_SERVE_GRPC_MAX_MESSAGE_SIZE, value: {{ int64 .Values.maxBodyBytes | quote }}}
- {name: RAY_SERVE_HAPROXY_BINARY_PATH, value: /opt/trimtab/bin/trimtab-haproxy}
- {name: RAY_SERVE_HAPROXY_MAXCONN, value: {{ int64 .Values.limits.connections | quote }}}
- {name: RAY_SERVE_HAPROXY_TUNE_BUFSIZE, value: {{ add (int64 .Values.limits.headerBytes) 1024 | quote }}}
- {name: RAY_SERVE_HAPROXY_H2_FE_MAX_CONCURRENT_STREAMS, value: {{ int64 .Values.limits.streams | quote }}}
- {name: TRIMTAB_HEAD_SECONDS, value: {{ int64 .Values.limits.headSeconds | quote }}}
- {name: RAY_SERVE_HAPROXY_BROADCAST_COALESCE_S, value: "1.0"}
- {name: TRIMTAB_REQUESTS, value: {{ int64 .Values.limits.requests | quote }}}
- {name: TRIMTAB_GRPC_HOST, value: 0.0.0.0}
{{- if .Values.tls.secretName }}
{{- $path := include "trimtab.tlsPath" . }}
- {name: TRIMTAB_TLS_CERTIFICATE, value: {{ $path }}/tls.crt}
- {name: TRIMTAB_TLS_KEY, value: {{ $path }}/tls.key}
{{- if .Values.tls.clientCaKey }}
- {name: TRIMTAB_TLS_CLIENT_CA, value: {{ $path }}/client-ca.crt}
- name: TRIMTAB_PROXY_SECRET
  valueFrom:
    secretKeyRef: {name: {{ .Values.tls.proxySecret.secretName }}, key: {{ .Values.tls.proxySecret.key }}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* HOME: Ray and the engines write below it, and the root filesystem is read-only. */}}
{{- define "trimtab.env" -}}
- {name: HOME, value: /tmp}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/*
The volumes: (dict "root" $ "journal" true). `journal` is true for the pod of the controller, which alone writes it.
*/}}
{{- define "trimtab.volumes" -}}
{{- $journal := .journal | ternary (include "trimtab.journalClaim" .root) "" }}
{{- with .root }}
- name: tmp
  emptyDir:
    sizeLimit: {{ .Values.tmp.sizeLimit }}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ .Values.shm.sizeLimit }}
- name: journal
{{- with $journal }}
  persistentVolumeClaim:
    claimName: {{ . }}
{{- else }}
  emptyDir: {}
{{- end }}
{{- if include "trimtab.repositoryVolume" . }}
{{- $repository := .Values.repository }}
- name: repository
{{- with include "trimtab.repositoryClaim" . }}
  persistentVolumeClaim:
    claimName: {{ . }}
    readOnly: {{ and $repository.readOnly (not $repository.fetch.url) }}
{{- else }}
  emptyDir:
    sizeLimit: {{ $repository.sizeLimit }}
{{- end }}
{{- end }}
{{- if include "trimtab.prometheusSecrets" . }}
- name: prometheus
  projected:
    defaultMode: 0440
    sources:
      {{- with .Values.prometheus.bearerToken }}
      {{- if .secretName }}
      - secret:
          name: {{ .secretName }}
          items:
            - {key: {{ .key }}, path: token}
      {{- end }}
      {{- end }}
      {{- with .Values.prometheus.ca }}
      {{- if .secretName }}
      - secret:
          name: {{ .secretName }}
          items:
            - {key: {{ .key }}, path: ca.crt}
      {{- end }}
      {{- end }}
{{- end }}
{{- with .Values.auth }}
{{- if .secretName }}
- name: auth
  secret:
    secretName: {{ .secretName }}
    defaultMode: 0440
    items:
      - {key: {{ .key }}, path: tokens.yaml}
      {{- range .tokenKeys }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
{{- end }}
{{- end }}
{{- with .Values.tls }}
{{- if .secretName }}
- name: tls
  secret:
    secretName: {{ .secretName }}
    defaultMode: 0440
    items:
      - {key: tls.crt, path: tls.crt}
      - {key: tls.key, path: tls.key}
      {{- with .clientCaKey }}
      - {key: {{ . }}, path: client-ca.crt}
      {{- end }}
{{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "trimtab.volumeMounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: shm, mountPath: /dev/shm}
- {name: journal, mountPath: {{ include "trimtab.journalPath" . }}}
{{- if include "trimtab.repositoryVolume" . }}
- {name: repository, mountPath: {{ .Values.repository.path }}, readOnly: {{ .Values.repository.readOnly }}}
{{- end }}
{{- if include "trimtab.prometheusSecrets" . }}
- {name: prometheus, mountPath: {{ include "trimtab.prometheusPath" . }}, readOnly: true}
{{- end }}
{{- if .Values.auth.secretName }}
- {name: auth, mountPath: {{ include "trimtab.authPath" . }}, readOnly: true}
{{- end }}
{{- if .Values.tls.secretName }}
- {name: tls, mountPath: {{ include "trimtab.tlsPath" . }}, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Each process exposes its metrics on the first free one of these ports. */}}
{{- define "trimtab.metricsPorts" -}}
{{- range $i := until (int .Values.metrics.ports) }}
- {name: trimtab-{{ $i }}, containerPort: {{ add $.Values.metrics.port $i }}, protocol: TCP}
{{- end }}
{{- end }}

{{/*
The pods' init containers: (dict "root" $ "image" <image> "resources" <resources> "profile" true). `fetch` verifies every
checksum, or fails and is tried again: no pod serves half a repository. `profile` measures what this node runs, once: a
profile counts only on the kind of machine it was measured on.
*/}}
{{- define "trimtab.initContainers" -}}
{{- $repository := .root.Values.repository }}
{{- with .root.Values.initContainers }}
{{ toYaml . }}
{{- end }}
{{- if $repository.fetch.url }}
- name: fetch
  image: {{ .image }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  args:
    - fetch
    - {{ $repository.fetch.url | quote }}
    - {{ $repository.path }}
    {{- with $repository.fetch.options }}
    - {{ printf "--options=%s" (toJson .) | quote }}
    {{- end }}
    {{- with $repository.fetch.sumsSha256 }}
    - --sums-sha256={{ . }}
    {{- end }}
  env:
    {{- include "trimtab.env" .root | nindent 4 }}
    {{- with $repository.fetch.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $repository.fetch.secretName }}
  envFrom:
    - secretRef: {name: {{ . }}}
  {{- end }}
  {{- with $repository.fetch.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- toYaml .root.Values.securityContext | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: repository, mountPath: {{ $repository.path }}}
{{- end }}
{{- with $repository.image }}
{{- if .reference }}
- name: models
  image: {{ .reference }}
  imagePullPolicy: {{ .pullPolicy }}
  command: [cp, -R, {{ .path }}/., {{ $repository.path }}/]
  {{- with $repository.fetch.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- toYaml $.root.Values.securityContext | nindent 4 }}
  volumeMounts:
    - {name: repository, mountPath: {{ $repository.path }}}
{{- end }}
{{- end }}
{{- if and .profile .root.Values.repository.profileOnStart }}
- name: profile
  image: {{ .image }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  args: [profile, {{ .root.Values.repository.path }}]
  env:
    {{- include "trimtab.env" .root | nindent 4 }}
  {{- with .resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- toYaml .root.Values.securityContext | nindent 4 }}
  volumeMounts:
    {{- include "trimtab.volumeMounts" .root | nindent 4 }}
{{- end }}
{{- end }}

{{/* Where a pod may run: (dict "root" $ "pod" <values> "component" "worker" "labels" <further selector labels>). */}}
{{- define "trimtab.placement" -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .pod.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{- toYaml . | nindent 4 }}
    labelSelector:
      matchLabels:
        {{- include "trimtab.selectorLabels" $.root | nindent 8 }}
        app.kubernetes.io/component: {{ $.component }}
        {{- with $.labels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{/* How the kubelet asks the server: it does not check the certificate. */}}
{{- define "trimtab.scheme" -}}
{{- .Values.tls.secretName | empty | ternary "HTTP" "HTTPS" }}
{{- end }}

{{/* Timing of a probe: everything of its values but the protocol. */}}
{{- define "trimtab.timing" -}}
{{- omit . "protocol" | toYaml }}
{{- end }}
