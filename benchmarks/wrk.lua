-- wrk -s wrk.lua URL -- BODY EXPECTED [alone]: posts the file BODY, searches every answer for what the file EXPECTED holds,
-- and prints one line of JSON. `alone`: there is one connection, and quantiles are of what its requests took. wrk's own have
-- more in them: for each that took longer than the mean, those that would have been sent meanwhile.
local ffi = require("ffi")
ffi.cdef [[
  struct moment { long seconds, nanoseconds; };
  int clock_gettime(int clock, struct moment *now);
]]

wrong = 0
taken = {} -- microseconds -> requests
local expected, alone
local asked = 0
local moment = ffi.new("struct moment")
local threads = {}

local function content(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

local function microseconds()
  ffi.C.clock_gettime(1, moment) -- CLOCK_MONOTONIC
  return tonumber(moment.seconds) * 1e6 + tonumber(moment.nanoseconds) / 1e3
end

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  wrk.body = content(args[1])
  expected = content(args[2])
  alone = args[3] == "alone"
  local made = wrk.format()
  request = function()
    if alone then asked = microseconds() end
    return made
  end
end

function response(status, headers, body)
  if alone then
    local took = math.floor(microseconds() - asked)
    taken[took] = (taken[took] or 0) + 1
  end
  if status ~= 200 or not string.find(body, expected, 1, true) then wrong = wrong + 1 end
end

local function quantile(counts, total, share)
  local sorted = {}
  for took in pairs(counts) do table.insert(sorted, took) end
  table.sort(sorted)
  local seen = 0
  for _, took in ipairs(sorted) do
    seen = seen + counts[took]
    if seen >= share * total then return took end
  end
  return 0
end

function done(summary, latency, requests)
  local wrongs = 0
  for _, thread in ipairs(threads) do wrongs = wrongs + thread:get("wrong") end
  local p50, p99 = latency:percentile(50), latency:percentile(99)
  local counts, total = threads[1]:get("taken"), 0
  for _, count in pairs(counts) do total = total + count end
  if total > 0 then p50, p99 = quantile(counts, total, 0.5), quantile(counts, total, 0.99) end
  local e = summary.errors
  io.write(string.format(
    '{"requests": %d, "microseconds": %d, "wrong": %d, "errors": %d, "p50": %d, "p99": %d}\n',
    summary.requests, summary.duration, wrongs, e.connect + e.read + e.write + e.timeout,
    p50, p99))
end
