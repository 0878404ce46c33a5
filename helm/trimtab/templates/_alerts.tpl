{{/*
The alerts as a YAML list. Every series is one that trimtab exposes (budgets/exposition.py); the runbook has a section
for each. Series of any but the default host group carry `host_group`, and each group alerts by itself. An SLO is the trigger `slo:<model>`: pressure 1 is its objective, so the share of time above 1 is what burns.
*/}}
{{- define "trimtab.alerts" -}}
{{- $group := "{{ with $labels.host_group }} (host group {{ . }}){{ end }}" }}
{{- $s := default (include "trimtab.metricsSelector" .) .Values.prometheusRule.selector }}
{{- $stale := dig "stale_seconds" 15 (default dict .Values.config.controller) }}
{{- $objective := float64 .Values.prometheusRule.sloTarget }}
{{- $late := printf "(max by (budget, host_group) (trimtab_pressure{%s, budget=~\"slo:.+\"}) > bool 1)" $s }}
- alert: TrimtabBudgetSaturated
  severity: critical
  for: 1m
  expr: >-
    max by (budget, host_group) (trimtab_trigger_state{ {{- $s }}, budget!~"slo:.*"}) == 2
  summary: 'Budget {{`{{ $labels.budget }}`}} is used up{{ $group }}'
  description: >-
    Usage has reached the limit of budget {{`{{ $labels.budget }}`}}. The controller degrades what it may; what it may
    not (pins, floors, neighbours) is now close to an out-of-memory kill. See `trimtab explain`.
- alert: TrimtabNoFeasiblePlan
  severity: critical
  for: 3m
  expr: >-
    avg_over_time((max by (budget, host_group) (trimtab_plan_infeasible{ {{- $s }}}))[2m:15s]) == 1
  summary: 'Nothing left to degrade for {{`{{ $labels.budget }}`}}{{ $group }}'
  description: >-
    {{`{{ $labels.budget }}`}} has been past its enter threshold for five minutes, and no allowed step relieves it: every
    model is pinned, at its floor, quarantined or on its last rung. Raise the limit, lower a floor, lift a pin, allow
    parking, or add capacity.
- alert: TrimtabExhaustionPredicted
  severity: warning
  for: 2m
  expr: >-
    max by (budget, host_group) (predict_linear(trimtab_pressure{ {{- $s }}, budget!~"slo:.*"}[10m], 600)) > 1
    and max by (budget, host_group) (trimtab_pressure{ {{- $s }}, budget!~"slo:.*"}) > 0.5 < 1
  summary: 'Budget {{`{{ $labels.budget }}`}} will be used up within ten minutes{{ $group }}'
  description: >-
    At the trend of the last ten minutes usage of {{`{{ $labels.budget }}`}} reaches its limit within the next ten. Look
    for a neighbour that grows, or a leak; the controller will degrade models when the trigger enters.
- alert: TrimtabSloBurningFast
  severity: critical
  for: 2m
  expr: >-
    avg_over_time({{ $late }}[1h:30s]) > {{ round (mulf 14.4 (subf 1.0 $objective)) 6 }}
    and avg_over_time({{ $late }}[5m:30s]) > {{ round (mulf 14.4 (subf 1.0 $objective)) 6 }}
  summary: '{{`{{ $labels.budget }}`}} burns its error budget 14 times too fast{{ $group }}'
  description: >-
    {{`{{ $labels.budget }}`}} was above its latency objective for {{`{{ $value | humanizePercentage }}`}} of the last
    hour, and still is. At this rate a month's error budget is gone in two days.
- alert: TrimtabSloBurningSlowly
  severity: warning
  for: 15m
  expr: >-
    avg_over_time({{ $late }}[6h:1m]) > {{ round (mulf 6.0 (subf 1.0 $objective)) 6 }}
    and avg_over_time({{ $late }}[30m:1m]) > {{ round (mulf 6.0 (subf 1.0 $objective)) 6 }}
  summary: '{{`{{ $labels.budget }}`}} burns its error budget 6 times too fast{{ $group }}'
  description: >-
    {{`{{ $labels.budget }}`}} was above its latency objective for {{`{{ $value | humanizePercentage }}`}} of the last
    six hours. At this rate a month's error budget is gone in five days.
- alert: TrimtabRequestsFailing
  severity: critical
  for: 2m
  expr: >-
    sum by (model) (rate(trimtab_requests_total{ {{- $s }}, code!~"ok|InvalidInput|UnknownModel|TooLarge|Cancelled"}[5m]))
    / sum by (model) (rate(trimtab_requests_total{ {{- $s }}}[5m])) > {{ .Values.prometheusRule.errorRatio }}
  summary: 'Requests to {{`{{ $labels.model }}`}} fail'
  description: >-
    {{`{{ $value | humanizePercentage }}`}} of the requests to {{`{{ $labels.model }}`}} ended in an error of the
    server's (full queue, deadline, engine). What clients did wrong is not counted.
- alert: TrimtabSwapFailed
  severity: warning
  for: 0m
  expr: >-
    sum by (model, host_group) (increase(trimtab_swaps_total{ {{- $s }}, outcome!="done"}[15m])) > 0
    or sum by (model, host_group) (trimtab_swaps_total{ {{- $s }}, outcome!="done"}
    unless trimtab_swaps_total{ {{- $s }}, outcome!="done"} offset 15m) > 0
  summary: 'A swap of {{`{{ $labels.model }}`}} was rolled back or failed{{ $group }}'
  description: >-
    A variant of {{`{{ $labels.model }}`}} did not load, did not give the outputs stored with it, or proved bad under
    traffic. What ran before still answers, and the variant is put aside. `trimtab explain {{`{{ $labels.model }}`}}`.
- alert: TrimtabVariantQuarantined
  severity: warning
  for: 0m
  expr: >-
    max by (model, variant, host_group) (trimtab_quarantined{ {{- $s }}}) == 1
  summary: 'Variant {{`{{ $labels.variant }}`}} of {{`{{ $labels.model }}`}} is quarantined{{ $group }}'
  description: >-
    It failed, and is left out of plans: one rung less to degrade to. One that did not load is tried again after a while;
    one that gave other answers, failed requests or was too slow stays out until its artefact changes or
    `trimtab quarantine clear {{`{{ $labels.model }} {{ $labels.variant }}`}}`. `trimtab explain {{`{{ $labels.model }}`}}`
    has the reason.
- alert: TrimtabControllerNotTicking
  severity: critical
  for: 1m
  expr: >-
    time() - max by (host_group) (trimtab_last_tick_timestamp_seconds{ {{- $s }}}) > 120
    or absent(trimtab_last_tick_timestamp_seconds{ {{- $s }}})
  summary: 'The controller does not tick{{ $group }}'
  description: >-
    No tick in two minutes, or no controller is scraped. Requests are answered still, but nothing watches the budgets.
- alert: TrimtabControllerFailing
  severity: warning
  for: 5m
  expr: >-
    sum(increase(trimtab_ticks_total{ {{- $s }}, outcome="error"}[5m]))
    / sum(increase(trimtab_ticks_total{ {{- $s }}}[5m])) > 0.1
  summary: 'Ticks of the controller fail'
  description: >-
    {{`{{ $value | humanizePercentage }}`}} of the controller's ticks ended in an error; the pod's log says which.
- alert: TrimtabSourceStale
  severity: warning
  for: 2m
  expr: >-
    max by (budget, host_group) (trimtab_source_age_seconds{ {{- $s }}}) > {{ $stale }}
    or max by (budget, host_group) (trimtab_trigger_state{ {{- $s }}}) unless max by (budget, host_group) (trimtab_pressure{ {{- $s }}})
  summary: '{{`{{ $labels.budget }}`}} is not measured{{ $group }}'
  description: >-
    The controller has no reading of {{`{{ $labels.budget }}`}}, or only an old one. A missing reading justifies no swap:
    until it is back, this trigger neither degrades nor restores.
- alert: TrimtabRestartLoop
  severity: critical
  for: 0m
  expr: >-
    resets(sum(trimtab_tick_duration_seconds_count{ {{- $s }}})[30m:15s]) > 2
    or count(last_over_time(trimtab_process_memory_bytes{ {{- $s }}, role="host"}[30m]))
    - max_over_time(count(trimtab_process_memory_bytes{ {{- $s }}, role="host"})[30m:15s]) > 2
  summary: 'trimtab restarts again and again'
  description: >-
    Within half an hour the controller started {{`{{ $value }}`}} times, or that many model hosts were replaced. Look at
    the pod's last termination (out of memory?) and at the log of the run before.
{{- end }}
