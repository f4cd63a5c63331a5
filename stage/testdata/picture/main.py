"""Finds what stands out in a picture, with OpenCV: a picture of it, and figures."""

import json
import os

import cv2
import numpy

picture = cv2.imread(os.path.join(os.environ["TASK_DIR"], "data.bin"))
params = json.loads(os.environ["APP_PARAMS"])
results = os.environ["TASK_RESULTS_DIR"]

height, width = picture.shape[:2]
turn = cv2.getRotationMatrix2D((width / 2, height / 2), params["degrees"], 1.0)
turned = cv2.warpAffine(picture, turn, (width, height), flags=cv2.INTER_CUBIC)
soft = cv2.GaussianBlur(cv2.cvtColor(turned, cv2.COLOR_BGR2GRAY), (5, 5), 1.2)
edges = cv2.Canny(soft, 40, 120)
shapes, _ = cv2.findContours(edges, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
spectrum = numpy.abs(numpy.fft.rfft2(soft))

cv2.imwrite(os.path.join(results, "edges.png"), edges)
cv2.imwrite(os.path.join(results, "small.jpg"), cv2.resize(turned, (width // 3, height // 3), interpolation=cv2.INTER_AREA))
with open(os.path.join(results, "figures.json"), "w", encoding="utf-8") as out:
    json.dump(
        {
            "edges": int(numpy.count_nonzero(edges)),
            "shapes": len(shapes),
            "area": sum(cv2.contourArea(s) for s in shapes),
            "mean": [float(x) for x in cv2.mean(turned)],
            "spectrum": [float(x) for x in spectrum.ravel()[:16]],
        },
        out,
    )
print(f"{len(shapes)} shapes")
