FROM debian
RUN apt-get update
RUN --mount=type=cache,target=/var/lib/apt apt-get update
COPY one two /three
COPY --if-exists --from=$FROM maybe /x
COPY --link --chmod=755 tool /bin/
ADD git+https://localhost/team/tool#main /src
COPY --from=alpine:latest /etc/os-release /
