# check=experimental=InvalidDefinitionDescription
# something else
ARG VERSION=1
from debian:12 AS Build
User nobody
FROM build as build
FROM scratch AS context
# MODE says how
ARG MODE
MAINTAINER somebody
