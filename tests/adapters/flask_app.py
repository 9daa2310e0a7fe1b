"""An ordinary Flask application (WSGI)."""

from flask import Flask, Response, jsonify, make_response, redirect, request

app = Flask(__name__)


@app.get("/legacy")
@app.get("/legacy/")
def home():
    return "old but good"


@app.get("/legacy/hello/<name>")
def hello(name):
    return jsonify(name=name, x=request.args.getlist("x"))


@app.post("/legacy/form")
def form():
    return f"<p>{request.form['name']}</p>"


@app.post("/legacy/json")
def json():
    return jsonify(got=request.get_json()), 201


@app.post("/legacy/raw")
def raw():
    return str(len(request.get_data()))


@app.get("/legacy/cookies")
def cookies():
    response = make_response(request.cookies.get("seen", ""))
    response.set_cookie("one", "1", httponly=True)
    response.set_cookie("two", "2")
    return response


@app.get("/legacy/redirect")
def away():
    return redirect("/legacy/hello/you")


@app.get("/legacy/stream")
def stream():
    return Response((f"{n}\n" for n in range(5)), mimetype="text/plain")


@app.get("/legacy/crash")
def crash():
    raise ValueError("nobody handles this")


@app.get("/legacy/url/<path:rest>")
def url(rest):
    return jsonify(rest=rest, path=request.path, root=request.script_root, scheme=request.scheme)
