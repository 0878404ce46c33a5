{{/* Of every node. */}}
{{- define "trimtab.rayParams" -}}
metrics-export-port: {{ .Values.metrics.rayPort | quote }}
object-store-memory: {{ int64 .Values.rayservice.objectStoreBytes | quote }}
{{- end }}

{{/*
A pod template of the Ray cluster: (dict "root" $ "pod" <values of head or group> "component" "head" or "worker").

KubeRay's own probes call wget, which is not in the image; these ask the same endpoints of Ray. A worker is ready when its
Serve proxy, which is there only while a host serves on that node, reaches a host that has loaded its models (the proxy's
own /-/healthz is content without any). Liveness is Ray's, so that loading models kills nothing. The head's token is for
the autoscaler alone.
*/}}
{{- define "trimtab.rayPod" -}}
{{- $root := .root }}
{{- $head := eq .component "head" }}
{{- $image := default (include "trimtab.image" $root) .pod.image }}
{{- $labels := $head | ternary (dict) (dict "trimtab.io/group" (default "" .pod.name)) }}
metadata:
  labels:
    {{- include "trimtab.podLabels" . | nindent 4 }}
    {{- with $labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $root.Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "trimtab.serviceAccountName" $root }}
  automountServiceAccountToken: {{ and $head $root.Values.rayservice.autoscaling.enabled }}
  enableServiceLinks: false
  {{- if and $root.Values.rayservice.autoscaling.enabled (eq $root.Values.rayservice.autoscaling.version "v2") }}
  restartPolicy: Never
  {{- end }}
  terminationGracePeriodSeconds: {{ $root.Values.terminationGracePeriodSeconds }}
  securityContext:
    {{- toYaml $root.Values.podSecurityContext | nindent 4 }}
  {{- with include "trimtab.placement" (dict "root" $root "pod" .pod "component" .component "labels" $labels) | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with include "trimtab.initContainers" (dict "root" $root "image" $image "resources" .pod.resources "profile" (not $head)) | trim }}
  initContainers:
    {{- . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ printf "ray-%s" .component }}
      image: {{ $image }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      env:
        {{- include "trimtab.env" $root | nindent 8 }}
        {{- include "trimtab.serveEnv" . | nindent 8 }}
      ports:
        {{- if $head }}
        - {name: gcs-server, containerPort: 6379, protocol: TCP}
        - {name: dashboard, containerPort: 8265, protocol: TCP}
        - {name: client, containerPort: 10001, protocol: TCP}
        - {name: admin, containerPort: 8002, protocol: TCP}
        {{- end }}
        - {name: serve, containerPort: 8000, protocol: TCP}
        - {name: grpc, containerPort: 8001, protocol: TCP}
        - {name: metrics, containerPort: {{ $root.Values.metrics.rayPort }}, protocol: TCP}
        {{- include "trimtab.metricsPorts" $root | trim | nindent 8 }}
      startupProbe:
        httpGet: {path: /api/local_raylet_healthz, port: 52365}
        {{- include "trimtab.timing" $root.Values.probes.startup | nindent 8 }}
      livenessProbe:
        httpGet: {path: {{ $head | ternary "/api/healthz" "/api/local_raylet_healthz" }}, port: 52365}
        {{- include "trimtab.timing" $root.Values.probes.liveness | nindent 8 }}
      readinessProbe:
        {{- if $head }}
        httpGet: {path: /api/healthz, port: 52365}
        {{- else }}
        httpGet: {path: /v2/health/live, port: serve, scheme: {{ include "trimtab.scheme" $root }}}
        {{- end }}
        {{- include "trimtab.timing" $root.Values.probes.readiness | nindent 8 }}
      lifecycle:
        preStop:
          exec:
            command: [/bin/sh, -c, "sleep {{ $root.Values.drainSeconds }}; ray stop"]
      {{- with .pod.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- toYaml $root.Values.securityContext | nindent 8 }}
      volumeMounts:
        {{- if $head }}
        - {name: config, mountPath: {{ include "trimtab.configPath" $root }}, readOnly: true}
        {{- end }}
        {{- include "trimtab.volumeMounts" $root | nindent 8 }}
  volumes:
    {{- if $head }}
    - name: config
      configMap:
        name: {{ include "trimtab.fullname" $root }}
    {{- end }}
    {{- include "trimtab.volumes" (dict "root" $root "journal" $head) | nindent 4 }}
{{- end }}
