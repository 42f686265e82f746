-- Forgets hits that were counted.
-- KEYS and ARGV as for one stage, then the time that it returned.

local now = time()
local at = tonumber(ARGV[#ARGV])
for place, key in ipairs(KEYS) do
    local most = tonumber(ARGV[place * 2 - 1])
    local window = tonumber(ARGV[place * 2])
    local seen = kind_of(most).look(key, most, window, now)
    if seen.log then
        for number = 0, seen.used - 1 do
            if entry(seen.log, number) == at then
                local rest = string.sub(seen.log, 1, number * 8) .. string.sub(seen.log, number * 8 + 9)
                if rest == '' then
                    redis.call('DEL', key)
                else
                    store(key, rest, entry(rest, #rest / 8 - 1) + window - now)
                end
                break
            end
        end
    elseif seen.debt > 0 then
        local debt = seen.debt - seen.interval
        if debt <= 0 then
            redis.call('DEL', key)
        else
            store(key, struct.pack('>d', now + debt), debt)
        end
    end
end
return 1
