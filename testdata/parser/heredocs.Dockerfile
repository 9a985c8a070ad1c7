FROM a
RUN <<EOF
echo 1
EOF
RUN <<-"A" cat && <<B sh
	one $x
	A
two
B
COPY <<one.txt <<two.txt /x/
1
one.txt
2
two.txt
RUN echo "<<EOF"
