FORM a
FROM a
COYP x y
COPY --form=b x y
RUN --mnt=type=cache x
EXPOSE 99999
HEALTHCHECK --intervall=1s CMD x
STOPSIGNAL SIGFOO
