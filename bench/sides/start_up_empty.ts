// Why: a script that imports nothing, listens and ends, to compare with.

Deno.listen({ hostname: "127.0.0.1", port: Number(Deno.args[0]) }).close();
