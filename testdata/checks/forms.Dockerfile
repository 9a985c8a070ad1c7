FROM debian:12
ENV A b c
LABEL k "v"
CMD ['serve', "--all"]
ENTRYPOINT serve $PORT
ENTRYPOINT ["serve"]
VOLUME ['/data']
EXPOSE 80/TCP 127.0.0.1:443:8443 # public
WORKDIR app
RUN one && \

    two
HEALTHCHECK CMD one
HEALTHCHECK NONE
