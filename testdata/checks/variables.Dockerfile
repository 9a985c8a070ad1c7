ARG VERSION=1.2
ARG IMAGE
FROM --platform=$TARGETPLATFORM $IMAGE:$TAG
FROM --platform=linux/arm64 debian:12
ENV PATH=/opt/bin:$PAHT APP_SECRET=x
COPY app-$VERSION.tar $LATER /srv/
ARG LATER
# check=skip=UndefinedVar
USER $PAHT
