-- The two algorithms on one key each. Times are whole microseconds; a double holds them exactly until the year 2255.
-- A log is its times as big-endian doubles, oldest first; a cell is one such number, the next theoretical arrival.
-- "look" changes nothing, unless the clock was set back; "count" writes what "look" has found and one hit more.

local function time()
    local parts = redis.call('TIME')
    return tonumber(parts[1]) * 1000000 + tonumber(parts[2])
end

local function entry(value, place)
    return (struct.unpack('>d', value, place * 8 + 1))
end

local function store(key, value, microseconds)
    redis.call('SET', key, value, 'PX', string.format('%.0f', math.ceil(microseconds / 1000) + 1))
end

-- The place of the first time after "floor".
local function first_after(value, length, floor)
    local low, high = 0, length
    while low < high do
        local middle = math.floor((low + high) / 2)
        if entry(value, middle) <= floor then
            low = middle + 1
        else
            high = middle
        end
    end
    return low
end

local function look_at_log(key, most, window, now)
    local value = redis.call('GET', key) or ''
    local length = #value / 8
    if length > 0 and entry(value, length - 1) > now then
        -- The clock was set back. What lies ahead of it counts as of now: a window later everything is as ever.
        local behind = first_after(value, length, now)
        value = string.sub(value, 1, behind * 8) .. string.rep(struct.pack('>d', now), length - behind)
        store(key, value, window)
    end
    local first = first_after(value, length, now - window)
    local seen = {key = key, most = most, window = window, now = now, log = string.sub(value, first * 8 + 1)}
    seen.used = length - first
    return seen
end

local function log_wait(seen)
    if seen.used < seen.most then
        return 0
    end
    return entry(seen.log, seen.used - seen.most) + seen.window - seen.now
end

local function count_in_log(seen)
    seen.log = seen.log .. struct.pack('>d', seen.now)
    seen.used = seen.used + 1
    store(seen.key, seen.log, seen.window)
end

local function log_quota(seen)
    if seen.used == 0 then
        return seen.most, 0, 0
    end
    local reset = entry(seen.log, 0) + seen.window - seen.now
    return math.max(seen.most - seen.used, 0), reset, log_wait(seen)
end

local function look_at_cell(key, most, window, now)
    local interval = math.ceil(window / most)
    local value = redis.call('GET', key)
    local debt = value and math.max(entry(value, 0) - now, 0) or 0
    if debt > interval * most then
        -- The clock was set back: nobody can owe more than everything.
        debt = interval * most
        store(key, struct.pack('>d', now + debt), debt)
    end
    return {key = key, most = most, interval = interval, now = now, debt = debt}
end

local function cell_wait(seen)
    return math.max(0, seen.debt - seen.interval * (seen.most - 1))
end

local function count_in_cell(seen)
    seen.debt = seen.debt + seen.interval
    store(seen.key, struct.pack('>d', seen.now + seen.debt), seen.debt)
end

local function cell_quota(seen)
    local out = math.ceil(seen.debt / seen.interval)
    local reset = 0
    if out > 0 then
        reset = seen.debt - (out - 1) * seen.interval
    end
    local left = math.max(0, seen.most - out)
    return left, reset, left > 0 and 0 or cell_wait(seen)
end

local LOG = {look = look_at_log, wait = log_wait, count = count_in_log, quota = log_quota}
local CELL = {look = look_at_cell, wait = cell_wait, count = count_in_cell, quota = cell_quota}

local function kind_of(most)
    if most <= 300 then
        return LOG
    end
    return CELL
end
