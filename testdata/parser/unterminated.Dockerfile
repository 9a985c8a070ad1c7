FROM a
RUN <<EOF
echo 1
