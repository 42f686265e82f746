-- A failed credential: counted while its rule allows it; then its subject is blocked, longer each time.
-- KEYS: the rule's, and the block's. ARGV: limit, window, longest block, how long a block is remembered after its end,
-- in microseconds. A block is two numbers: how often in a row, and until when.
-- Returns for how long the subject is refused, 0 for not at all.

local now = time()
local most, window, longest, forgive = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local value = redis.call('GET', KEYS[2])
local times, finish = 0, 0
if value then
    times, finish = entry(value, 0), entry(value, 1)
end
if finish > now then
    if finish - now > math.max(window, longest) then
        -- The clock was set back.
        finish = now + math.max(window, longest)
        store(KEYS[2], struct.pack('>d', times) .. struct.pack('>d', finish), finish - now + forgive)
    end
    return finish - now
end

local kind = kind_of(most)
local seen = kind.look(KEYS[1], most, window, now)
if kind.wait(seen) == 0 then
    kind.count(seen)
    return 0
end
if now < finish + forgive then
    times = times + 1
else
    times = 1
end
local span = math.min(window * 2 ^ math.min(times - 1, 20), math.max(window, longest))
store(KEYS[2], struct.pack('>d', times) .. struct.pack('>d', now + span), span + forgive)
return span
