FROM debian:bookworm
ENV LANG ko_KR. ## or LANG=C
ENV A=1 # two
RUN echo # fine
EXPOSE 8080 # web
