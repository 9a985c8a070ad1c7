# syntax=docker/dockerfile:1
# escape=`

FROM a AS b
RUN dir `
  # a comment

  c:\\x
COPY [ "a b", "c" ]
ENTRYPOINT ["x"]
