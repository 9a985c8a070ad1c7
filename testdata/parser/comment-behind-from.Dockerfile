FROM debian:bookworm   # base image
ENV LANG ko_KR. ## or LANG=C
