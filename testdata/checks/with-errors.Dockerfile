FROM debian:12   # the base
COYP a b
Env A b
COPY --form=x a b
