FROM scratch
FROM a
RUN x \

  y
MAINTAINER me
cmd x
CMD y
ENV a b
USER $nope
WORKDIR rel
