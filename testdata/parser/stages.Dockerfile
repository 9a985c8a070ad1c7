RUN x
FROM a AS 1
FROM b AS b
FROM c AS B
COPY --from=nope a b
