{{/* Names and labels. */}}

{{- define "trimtab.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* At most 41 characters: KubeRay appends to a RayService's name and refuses those over 47. */}}
{{- define "trimtab.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 41 | trimSuffix "-" }}
{{- else if contains (include "trimtab.name" .) .Release.Name }}
{{- .Release.Name | trunc 41 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "trimtab.name" .) | trunc 41 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* What selects this release's pods. Immutable in a Deployment: nothing that changes with a version belongs here. */}}
{{- define "trimtab.selectorLabels" -}}
app.kubernetes.io/name: {{ include "trimtab.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Of every object. The version is left out of pods: it would change their template with every chart release. */}}
{{- define "trimtab.labels" -}}
{{ include "trimtab.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: trimtab
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Of every pod: (dict "root" $ "component" "worker"). */}}
{{- define "trimtab.podLabels" -}}
{{ include "trimtab.selectorLabels" .root }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: trimtab
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- with .root.Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The component whose pods answer clients. */}}
{{- define "trimtab.servingComponent" -}}
{{- eq .Values.mode "rayservice" | ternary "worker" "server" }}
{{- end }}

{{- define "trimtab.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "trimtab.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "trimtab.image" -}}
{{- $image := .Values.image }}
{{- if $image.digest }}
{{- printf "%s@%s" $image.repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $image.repository (default .Chart.AppVersion $image.tag) }}
{{- end }}
{{- end }}

{{- define "trimtab.repositoryClaim" -}}
{{- $claim := .Values.repository.claim }}
{{- if $claim.existingClaim }}
{{- $claim.existingClaim }}
{{- else if $claim.create }}
{{- printf "%s-repository" (include "trimtab.fullname" .) }}
{{- end }}
{{- end }}

{{/* "true" where the repository is filled when a pod starts. */}}
{{- define "trimtab.repositoryFilled" -}}
{{- if or .Values.repository.fetch.url .Values.repository.image.reference }}true{{ end }}
{{- end }}

{{/* "true" where the repository is a volume and not a part of trimtab's image. */}}
{{- define "trimtab.repositoryVolume" -}}
{{- if or (include "trimtab.repositoryClaim" .) (include "trimtab.repositoryFilled" .) }}true{{ end }}
{{- end }}

{{- define "trimtab.journalClaim" -}}
{{- $claim := .Values.journal.claim }}
{{- if $claim.existingClaim }}
{{- $claim.existingClaim }}
{{- else if $claim.create }}
{{- printf "%s-journal" (include "trimtab.fullname" .) }}
{{- end }}
{{- end }}

{{/* Label matchers of this release's series: those the PodMonitor gives, else the namespace's. */}}
{{- define "trimtab.metricsSelector" -}}
{{- if .Values.prometheus.selector }}
{{- .Values.prometheus.selector }}
{{- else if .Values.podMonitor.enabled }}
{{- printf "job=%q" (printf "%s/%s" .Release.Namespace (include "trimtab.fullname" .)) }}
{{- else }}
{{- printf "namespace=%q" .Release.Namespace }}
{{- end }}
{{- end }}

{{/* Label matchers of the DCGM exporter's series for this release's pods. */}}
{{- define "trimtab.gpuSelector" -}}
{{- with .Values.prometheus.dcgm }}
{{- if .selector }}
{{- .selector }}
{{- else }}
{{- printf "%s=%q,%s=~%q" .namespaceLabel $.Release.Namespace .podLabel (printf "%s-.+" (include "trimtab.fullname" $)) }}
{{- end }}
{{- end }}
{{- end }}

{{/* What cannot work is refused here, with what to do, before anything is installed. */}}
{{- define "trimtab.checks" -}}
{{- $groups := dict "default" true }}
{{- if eq .Values.mode "rayservice" }}
{{- if not .Values.prometheus.url }}
{{- fail "mode rayservice needs prometheus.url: the hosts run in pods of their own, and the embedded source reads only endpoints of its own pod" }}
{{- end }}
{{- if not .Values.rayservice.workerGroups }}
{{- fail "mode rayservice needs at least one of rayservice.workerGroups: the head runs no models" }}
{{- end }}
{{- if not .Values.metrics.rayPort }}
{{- fail "mode rayservice needs metrics.rayPort: Ray's exporter is on in every pod" }}
{{- end }}
{{- $pdb := .Values.podDisruptionBudget }}
{{- if and $pdb.enabled (or (not (kindIs "invalid" $pdb.maxUnavailable)) (kindIs "string" $pdb.minAvailable)) }}
{{- fail "mode rayservice: podDisruptionBudget takes only a whole minAvailable, since a RayCluster has no scale to compute anything else from" }}
{{- end }}
{{- $names := dict }}
{{- $groups = dict }}
{{- range .Values.rayservice.workerGroups }}
{{- if hasKey $names .name }}
{{- fail (printf "rayservice.workerGroups: two groups are called %q" .name) }}
{{- end }}
{{- $_ := set $names .name true }}
{{- if hasKey (default dict .rayStartParams) "labels" }}
{{- fail (printf "rayservice.workerGroups: %s: KubeRay refuses labels in rayStartParams; hostGroup sets trimtab's" .name) }}
{{- end }}
{{- $_ := set $groups (default "default" .hostGroup) true }}
{{- if gt (int .minReplicas) (int .maxReplicas) }}
{{- fail (printf "rayservice.workerGroups: %s: minReplicas %d is above maxReplicas %d" .name (int .minReplicas) (int .maxReplicas)) }}
{{- end }}
{{- end }}
{{- if and .Values.rayservice.gcsFaultTolerance.enabled (not .Values.rayservice.gcsFaultTolerance.redisAddress) }}
{{- fail "rayservice.gcsFaultTolerance needs redisAddress, such as redis.example:6379" }}
{{- end }}
{{- else if lt (int .Values.metrics.ports) (add 1 (int (default 1 .Values.config.replicas))) }}
{{- fail (printf "metrics.ports is %d, but %d processes expose metrics: config.replicas hosts and the controller" (int .Values.metrics.ports) (add 1 (int (default 1 .Values.config.replicas)))) }}
{{- end }}
{{- range .Values.config.budgets }}
{{- if and .group (not (hasKey $groups .group)) }}
{{- fail (printf "config.budgets: %s: no pods are in host group %q; there are: %s (mode rayservice: rayservice.workerGroups[].hostGroup)" .name .group (keys $groups | sortAlpha | join ", ")) }}
{{- end }}
{{- end }}
{{- if and (not .Values.auth.secretName) (not .Values.networkPolicy.enabled) (not .Values.auth.allowUnauthenticated) }}
{{- fail "without auth.secretName nobody is asked who they are, and without networkPolicy.enabled everybody gets there: give one of them, or set auth.allowUnauthenticated" }}
{{- end }}
{{- if and .Values.tls.clientCaKey (not .Values.auth.secretName) }}
{{- fail "tls.clientCaKey asks clients for certificates, which the tokens of auth.secretName have to know" }}
{{- end }}
{{- if and .Values.tls.clientCaKey (not .Values.tls.secretName) }}
{{- fail "tls.clientCaKey is a key of the Secret tls.secretName, which is not given" }}
{{- end }}
{{- if and .Values.tls.clientCaKey (eq .Values.mode "rayservice") (not .Values.tls.proxySecret.secretName) }}
{{- fail "tls.clientCaKey in mode rayservice needs tls.proxySecret.secretName: by a secret of 16 letters and digits or more the hosts know that it is the proxy of a node that tells them whose certificate it saw" }}
{{- end }}
{{- if and .Values.tls.secretName (eq .Values.probes.readiness.protocol "grpc") }}
{{- fail "probes.readiness.protocol grpc cannot be used with tls.secretName: the kubelet's gRPC probe speaks no TLS" }}
{{- end }}
{{- with .Values.repository }}
{{- if and .fetch.url .image.reference }}
{{- fail "repository: give fetch.url or image.reference, not both" }}
{{- end }}
{{- if and .image.reference (or .claim.create .claim.existingClaim) }}
{{- fail "repository.image fills a volume of the pod's own: it goes with neither claim.create nor claim.existingClaim" }}
{{- end }}
{{- if and .fetch.url (eq $.Values.mode "rayservice") (or .claim.create .claim.existingClaim) }}
{{- fail "mode rayservice: repository.fetch goes into a volume of each pod's own, since several would write one claim: leave repository.claim alone" }}
{{- end }}
{{- end }}
{{- if and .Values.repository.profileOnStart .Values.repository.readOnly }}
{{- fail "repository.profileOnStart writes profiles into the repository: set repository.readOnly to false" }}
{{- end }}
{{- end }}
