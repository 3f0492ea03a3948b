// What the recipes for leases of JavaScript's drivers share. A token is what the driver makes of a bigint: a string, a
// BigInt, or slonik's number, which is exact for tokens.

"use strict";

// [recipe]
async function withLease(query, key, { ttl = 30_000, timeout = null }, work) {
  const ask = async (call, ...values) => Object.values((await query(call, [key, ...values]))[0])[0];
  const patience = timeout === null ? null : `${timeout} ms`;
  const token = await ask("CALL pglock.lease($1, $2::interval, $3::interval)", `${ttl} ms`, patience);
  const lost = new AbortController();
  let end;
  const renew = async () => {
    const sent = performance.now();
    const renewed = await ask("SELECT pglock.renew_lease($1, $2)", token);
    clearTimeout(end);
    end = setTimeout(() => lost.abort(), renewed ? sent + 0.9 * ttl - performance.now() : 0).unref();
  };
  await renew();
  const keeper = setInterval(() => renew().catch(() => {}), ttl / 3); // if one fails, the next may succeed
  try {
    return await work(token, lost.signal);
  } finally {
    clearInterval(keeper);
    await ask("SELECT pglock.release_lease($1, $2)", token).catch(() => {}); // it ends by itself, too
  }
}
// [end]

async function example({ query, pay }) {
  // [example]
  await withLease(query, "billing", {}, async (token, lost) => {
    for (const order of [42, 43]) {
      lost.throwIfAborted();
      await pay(order, token);
    }
  });
  // [end]
}

module.exports = { withLease, example };
