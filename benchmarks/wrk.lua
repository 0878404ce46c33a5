-- wrk -s wrk.lua URL -- BODY EXPECTED: posts the file BODY, searches every answer for what the file EXPECTED holds, and
-- prints one line of JSON.
wrong = 0
local expected
local threads = {}

local function content(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  wrk.body = content(args[1])
  expected = content(args[2])
  local made = wrk.format()
  request = function() return made end
end

function response(status, headers, body)
  if status ~= 200 or not string.find(body, expected, 1, true) then wrong = wrong + 1 end
end

function done(summary, latency, requests)
  local wrongs = 0
  for _, thread in ipairs(threads) do wrongs = wrongs + thread:get("wrong") end
  local e = summary.errors
  io.write(string.format(
    '{"requests": %d, "microseconds": %d, "wrong": %d, "errors": %d, "p50": %d, "p99": %d}\n',
    summary.requests, summary.duration, wrongs, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
