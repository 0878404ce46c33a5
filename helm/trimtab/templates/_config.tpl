{{/* trimtab's configuration: .Values.config, and over it what the chart decides (values.schema.json refuses those keys). */}}

{{/* Where the journal, secrets and configuration lie in every pod. */}}
{{- define "trimtab.journalPath" -}}/var/lib/trimtab{{- end }}
{{- define "trimtab.configPath" -}}/etc/trimtab{{- end }}
{{- define "trimtab.prometheusPath" -}}/run/secrets/trimtab-prometheus{{- end }}
{{- define "trimtab.tlsPath" -}}/run/secrets/trimtab-tls{{- end }}
{{- define "trimtab.authPath" -}}/run/secrets/trimtab-auth{{- end }}

{{/* "true" where a Secret for the Prometheus server is mounted. */}}
{{- define "trimtab.prometheusSecrets" -}}
{{- if and .Values.prometheus.url (or .Values.prometheus.bearerToken.secretName .Values.prometheus.ca.secretName) }}true{{ end }}
{{- end }}

{{- define "trimtab.config" -}}
{{- $config := deepCopy .Values.config }}
{{- $server := dict "host" "0.0.0.0" "http_port" 8000 "grpc_port" 8001 "admin_port" 8002 "max_body_bytes" (int64 .Values.maxBodyBytes) }}
{{- with .Values.limits }}
{{- $_ := set $server "limits" (dict "header_bytes" (int64 .headerBytes) "head_seconds" (int64 .headSeconds) "streams" (int64 .streams) "connections" (int64 .connections) "requests" (int64 .requests)) }}
{{- end }}
{{- /* Every interface of the pod: the tokens say who may do what, or else the NetworkPolicy who gets there at all. */}}
{{- if .Values.auth.secretName }}
{{- $_ := set $server "auth" (dict "tokens_file" (printf "%s/tokens.yaml" (include "trimtab.authPath" .))) }}
{{- else }}
{{- $_ := set $server "allow_unauthenticated" true }}
{{- end }}
{{- if .Values.tls.secretName }}
{{- $path := include "trimtab.tlsPath" . }}
{{- $tls := dict "certificate" (printf "%s/tls.crt" $path) "key" (printf "%s/tls.key" $path) }}
{{- if .Values.tls.clientCaKey }}
{{- $_ := set $tls "client_ca" (printf "%s/client-ca.crt" $path) }}
{{- end }}
{{- $_ := set $server "tls" $tls }}
{{- end }}
{{- $metrics := dict "port" (int .Values.metrics.port) "ray_port" (int .Values.metrics.rayPort) }}
{{- $controller := dict "journal" (printf "%s/journal.jsonl" (include "trimtab.journalPath" .)) }}
{{- with .Values.prometheus }}
{{- if .url }}
{{- $prometheus := dict "url" .url "selector" (include "trimtab.metricsSelector" $) }}
{{- if .dcgm.enabled }}
{{- $_ := set $prometheus "gpu_selector" (include "trimtab.gpuSelector" $) }}
{{- end }}
{{- if .bearerToken.secretName }}
{{- $_ := set $prometheus "bearer_token_file" (printf "%s/token" (include "trimtab.prometheusPath" $)) }}
{{- end }}
{{- if .ca.secretName }}
{{- $_ := set $prometheus "ca_file" (printf "%s/ca.crt" (include "trimtab.prometheusPath" $)) }}
{{- end }}
{{- $_ := set $controller "source" "prometheus" }}
{{- $_ := set $controller "prometheus" $prometheus }}
{{- end }}
{{- end }}
{{- $_ := set $config "repository" .Values.repository.path }}
{{- $_ := set $config "server" (mergeOverwrite (default dict $config.server) $server) }}
{{- $_ := set $config "metrics" (mergeOverwrite (default dict $config.metrics) $metrics) }}
{{- $_ := set $config "controller" (mergeOverwrite (default dict $config.controller) $controller) }}
{{- toYaml $config }}
{{- end }}

{{/*
What the Ray processes are deployed with in mode rayservice: the configuration without budgets, policies and the
controller's settings, which the controller reads from the file and follows. So a change of those replaces no process.
*/}}
{{- define "trimtab.serveArgs" -}}
{{- $config := include "trimtab.config" . | fromYaml }}
{{- $models := dict }}
{{- range $name, $model := $config.models }}
{{- if $model.batching }}
{{- $_ := set $models $name (pick $model "batching") }}
{{- end }}
{{- end }}
{{- $args := omit $config "budgets" }}
{{- $_ := set $args "models" $models }}
{{- $_ := set $args "controller" (pick $config.controller "source" "prometheus" "journal") }}
{{- $_ := set $args "config_path" (printf "%s/trimtab.yaml" (include "trimtab.configPath" .)) }}
{{- toYaml $args }}
{{- end }}

{{/*
The declarative Serve config of mode rayservice. Without a user_config Serve never calls the hosts' reconfigure, and they
would load nothing: generation 1 with no variants means each model's best rung; the controller's plans follow.
*/}}
{{- define "trimtab.serveConfig" -}}
proxy_location: EveryNode
http_options:
  host: 0.0.0.0
  port: 8000
grpc_options:
  port: 8001
  grpc_servicer_functions:
    - server.ingress.add_grpc_services
applications:
  - name: trimtab
    import_path: server.ingress:build
    route_prefix: /
    args:
      {{- include "trimtab.serveArgs" . | nindent 6 }}
    deployments:
      - name: host
        num_replicas: {{ int (default 1 .Values.config.replicas) }}
        user_config:
          generation: 1
          variants: {}
          modes: {}
      # On the head, whose pod the admin Service selects and whose journal outlives it. It needs no share of a CPU.
      - name: control
        ray_actor_options:
          num_cpus: 0
          resources: {trimtab-control: 0.001}
{{- end }}
